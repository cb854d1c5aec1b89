import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { StreamLogsRequest, StreamLogsResponse } from '../../proto/gen/mesh/v1/agent.js';
import { type OutputChunk, Stream } from '../../proto/gen/mesh/v1/common.js';
import type { Ledger } from '../core/ledger.js';
import type { Changes } from './changes.js';
import type { Jobs, LiveJob } from './jobs.js';
import type { AttemptLog, LogStore } from './log-store.js';

/** Attempts whose log is open at a time, per coordinator; the least recently written is closed beyond that. */
const OPEN_MAX = 1000;

export interface LogIntakeOptions {
  logs: LogStore;
  jobs: Jobs;
  ledger: Ledger;
  changes: Changes;
  clock: Clock;
  /** What the disk may hold of one job; beyond it output is left out. */
  jobBytesMax: number;
}

/**
 * Takes output of running attempts and stores it. Only an attempt that is live on the node that speaks may write; the
 * answer says up to where it is stored, and the agent forgets that much.
 */
export class LogIntake implements Service {
  readonly name = 'log-intake';
  readonly #options: LogIntakeOptions;
  readonly #open = new Map<string, { log: AttemptLog; busy: Promise<void> }>();
  /** What the disk holds of the live jobs that have written. */
  readonly #jobBytes = new WeakMap<LiveJob, Promise<{ bytes: number }>>();

  constructor(options: LogIntakeOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {}

  async stop(): Promise<void> {
    for (const { log, busy } of this.#open.values()) {
      await busy.catch(() => undefined);
      await log.close();
    }
    this.#open.clear();
  }

  async write(node: number, request: StreamLogsRequest): Promise<StreamLogsResponse> {
    const { ledger, jobs, changes, clock } = this.#options;
    const { job, index, generation } = request;
    // The agent's own notes of what it left out take no place in the output; the gap in the offsets says the same.
    const chunks = request.chunks.filter((chunk) => chunk.stream !== Stream.SYSTEM);
    const attempt = ledger.get(request, node);
    const live = jobs.get(job);
    const end = chunks.reduce((offset, chunk) => Math.max(offset, chunk.offset + chunk.data.length), 0);
    if (!attempt || !live) return { job, index, generation, storedOffset: end };
    const held = await this.#heldOf(live);
    // Left out like the middle of a loud attempt; what travels with the result shows how much is missing.
    const isFull = held.bytes >= this.#options.jobBytesMax;
    const storedOffset = isFull ? end : await this.#store(live, request, chunks, held);
    if (changes.output.has(job)) {
      const startedAtMs = clock.wallMs() - (clock.monotonicMs() - (attempt.startedAtMs ?? attempt.assignedAtMs));
      const number = attempt.failures + attempt.losses + 1;
      changes.output.emit(job, { job, index, generation, attempt: number, startedAtMs, chunks, last: false });
    }
    return { job, index, generation, storedOffset };
  }

  async #store(
    live: LiveJob,
    { index, generation }: StreamLogsRequest,
    chunks: readonly OutputChunk[],
    held: { bytes: number },
  ): Promise<number> {
    const entry = this.#entry(live.row.id, index, generation);
    entry.busy = entry.busy
      .catch(() => undefined)
      .then(async () => {
        held.bytes += await entry.log.append(chunks);
      });
    await entry.busy;
    return entry.log.offset;
  }

  #heldOf(live: LiveJob): Promise<{ bytes: number }> {
    let held = this.#jobBytes.get(live);
    if (!held) {
      held = this.#options.logs.bytesOf(live.row.id).then((bytes) => ({ bytes }));
      this.#jobBytes.set(live, held);
    }
    return held;
  }

  #entry(jobId: string, index: number, generation: number): { log: AttemptLog; busy: Promise<void> } {
    const key = `${jobId}/${index}.${generation}`;
    let entry = this.#open.get(key);
    if (!entry) entry = { log: this.#options.logs.open({ jobId, index, generation }), busy: Promise.resolve() };
    this.#open.delete(key);
    this.#open.set(key, entry);
    if (this.#open.size > OPEN_MAX) this.#closeOldest();
    return entry;
  }

  #closeOldest(): void {
    for (const [key, { log, busy }] of this.#open) {
      this.#open.delete(key);
      void busy.catch(() => undefined).then(() => log.close());
      return;
    }
  }
}
