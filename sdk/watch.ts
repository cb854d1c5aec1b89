/** Waiting for a job, over the coordinator's stream of its changes; a coordinator that restarts is waited for. */
import { MeshError } from '../common/errors.js';
import { formatDuration } from '../common/units.js';
import type { Job, MeshServiceService } from '../proto/gen/mesh/v1/mesh.js';
import { pause, systemClock } from '../common/clock.js';
import type { Api } from './api.js';

export interface WaitOptions {
  /** Absent: as long as it takes. */
  timeoutMs?: number | undefined;
  onChange?: (job: Job) => void;
  /** How long an unreachable coordinator is asked again before that is an error. */
  patienceMs?: number;
}

const PATIENCE_MS = 60_000;
const RECONNECT_MS = 500;

export const hasEnded = (job: Job): boolean => job.status !== 'QUEUED' && job.status !== 'RUNNING';

/**
 * The job once it has ended, however it ended.
 * @throws MeshError TIMED_OUT, NOT_FOUND, UNREACHABLE
 */
export async function waitForJob(
  mesh: Pick<Api<typeof MeshServiceService>, 'watchJob'>,
  id: string,
  options: WaitOptions = {},
): Promise<Job> {
  const { timeoutMs, patienceMs = PATIENCE_MS } = options;
  const controller = new AbortController();
  const timer = timeoutMs === undefined ? undefined : systemClock.after(timeoutMs, () => controller.abort());
  let lastHeardMs = systemClock.monotonicMs();
  let ended: Job | undefined;
  try {
    for (;;) {
      try {
        // To the end of the stream, which comes with the job's: a stream that is broken off costs a reset, and a connection
        // on which there are a thousand of those at once is cut off as an attack (CVE-2023-44487).
        for await (const { job } of mesh.watchJob({ id }, { signal: controller.signal })) {
          lastHeardMs = systemClock.monotonicMs();
          if (!job) continue;
          options.onChange?.(job);
          if (hasEnded(job)) ended = job;
        }
        if (ended) return ended;
      } catch (error) {
        if (ended) return ended;
        if (controller.signal.aborted)
          throw new MeshError('TIMED_OUT', `job ${id} has not ended after ${formatDuration(timeoutMs ?? 0)}`, {
            cause: error,
          });
        if (!isAway(error) || systemClock.monotonicMs() - lastHeardMs > patienceMs) throw error;
      }
      await pause(systemClock, RECONNECT_MS, controller.signal);
    }
  } finally {
    timer?.cancel();
  }
}

/** The coordinator, or its lead: others may answer. */
export const isAway = (error: unknown): boolean =>
  error instanceof MeshError && ['UNREACHABLE', 'NOT_READY', 'NOT_LEADER', 'LEADERSHIP_LOST'].includes(error.code);

/** @throws MeshError JOB_FAILED unless it is COMPLETED */
export function requireCompleted(job: Job): void {
  if (job.status === 'COMPLETED') return;
  const { total = 0, completed = 0 } = job.tasks ?? {};
  const why = job.error === '' ? '' : `: ${job.error}`;
  throw new MeshError('JOB_FAILED', `job ${job.id} is ${job.status}, ${completed} of ${total} tasks completed${why}`, {
    hint: `see: mesh tasks ${job.id}, mesh logs ${job.id}`,
  });
}
