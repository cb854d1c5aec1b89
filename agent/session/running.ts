/** The launches that run, and what is known of those of their attempts that most never need: most end before. */
import type { Clock } from '../../common/clock.js';
import type { Started } from '../../proto/gen/mesh/v1/agent.js';
import type { Attempt, Launch } from '../core/attempt.js';
import type { RunningLaunch, StopReason } from '../core/types.js';
import type { OutputSpool } from '../output/spool.js';

/** Attempts younger than this end before anybody needs to know that they run. */
export const RUNNING_AFTER_MS = 250;

/** Of an attempt that was seen to begin, or has printed something. */
interface Seen {
  startedMs: number | undefined;
  told: boolean;
  spool: OutputSpool | undefined;
}

export class Running {
  readonly #launches = new Map<Launch, RunningLaunch>();
  readonly #seen = new Map<Attempt, Seen>();

  constructor(private readonly clock: Clock) {}

  get idle(): boolean {
    return this.#launches.size === 0;
  }

  begun(launch: Launch, running: RunningLaunch): void {
    this.#launches.set(launch, running);
  }

  /** Forgets the launch unless something of it runs. */
  ended(launch: Launch): void {
    if (launch.live === 0) this.#launches.delete(launch);
  }

  started(attempt: Attempt, ageMs: number): void {
    if (attempt.launch) this.#see(attempt).startedMs = this.clock.monotonicMs() - ageMs;
  }

  prints(attempt: Attempt, spool: OutputSpool): void {
    if (attempt.launch) this.#see(attempt).spool = spool;
  }

  spoolOf(attempt: Attempt): OutputSpool | undefined {
    return this.#seen.get(attempt)?.spool;
  }

  forget(attempt: Attempt): void {
    this.#seen.delete(attempt);
  }

  /** Milliseconds; 0 while nobody has seen it begin. */
  ageMs(attempt: Attempt | undefined): number {
    const startedMs = attempt && this.#seen.get(attempt)?.startedMs;
    return startedMs === undefined ? 0 : Math.max(0, this.clock.monotonicMs() - startedMs);
  }

  stop(attempt: Attempt, reason: StopReason): void {
    if (attempt.launch) this.#launches.get(attempt.launch)?.stop(attempt.position, reason);
  }

  stopAll(reason: StopReason, isMeant: (launch: Launch) => boolean = () => true): void {
    for (const [launch, running] of this.#launches) {
      if (!isMeant(launch)) continue;
      launch.attempts.forEach((attempt, position) => {
        if (attempt.launch === launch) running.stop(position, reason);
      });
    }
  }

  /** A new session was told of none. */
  noneTold(): void {
    for (const seen of this.#seen.values()) seen.told = false;
  }

  /**
   * Those that are old enough to be told of, each once in a session.
   * @param follow is called every time with what has printed
   */
  tell(isHeard: boolean, follow: (attempt: Attempt, spool: OutputSpool) => void): Started[] {
    const items: Started[] = [];
    for (const [attempt, seen] of this.#seen) {
      const ageMs = this.ageMs(attempt);
      if (ageMs < RUNNING_AFTER_MS) continue;
      if (seen.spool && seen.spool.totalBytes > 0) follow(attempt, seen.spool);
      if (seen.told || !isHeard) continue;
      seen.told = true;
      items.push({ job: attempt.job, index: attempt.index, generation: attempt.generation, ageMs: Math.round(ageMs) });
    }
    return items;
  }

  #see(attempt: Attempt): Seen {
    let seen = this.#seen.get(attempt);
    if (!seen) this.#seen.set(attempt, (seen = { startedMs: undefined, told: false, spool: undefined }));
    return seen;
  }
}
