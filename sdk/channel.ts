import type { Client } from '@grpc/grpc-js';
import { connectivityState } from '@grpc/grpc-js';
import { systemClock } from '../common/clock.js';

/**
 * Opens a channel to every endpoint at once and keeps the first that is ready: connected, and sure of the other side.
 * Undefined as soon as all have failed, or after `timeoutMs`.
 */
export async function readyClient<E>(
  endpoints: readonly E[],
  open: (endpoint: E) => Client,
  timeoutMs: number,
): Promise<{ client: Client; endpoint: E } | undefined> {
  const attempts = endpoints.map((endpoint) => ({ endpoint, client: open(endpoint) }));
  const deadline = systemClock.wallMs() + timeoutMs;
  const winner = await new Promise<(typeof attempts)[number] | undefined>((resolve) => {
    let left = attempts.length;
    if (left === 0) resolve(undefined);
    for (const attempt of attempts) {
      void becomesReady(attempt.client, deadline).then((ready) => {
        if (ready) resolve(attempt);
        else if (--left === 0) resolve(undefined);
      });
    }
  });
  for (const attempt of attempts) if (attempt !== winner) attempt.client.close();
  return winner;
}

/** False at the first failure; grpc-js would go on trying in silence. */
function becomesReady(client: Client, deadline: number): Promise<boolean> {
  const channel = client.getChannel();
  return new Promise((resolve) => {
    const look = () => {
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY) return resolve(true);
      if (state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN) return resolve(false);
      channel.watchConnectivityState(state, deadline, (error) => (error ? resolve(false) : look()));
    };
    try {
      look();
    } catch {
      // Closed by us meanwhile: another was faster.
      resolve(false);
    }
  });
}
