/**
 * Logs of a task or of a whole job, stored and live. A follower subscribes before it reads what is stored; what arrives
 * meanwhile is held back, bounded, and then told from what was read by attempt and offset, so nothing is missed or shown
 * twice.
 */
import { OutputTail, type OutputChunk } from '../../proto/gen/mesh/v1/common.js';
import { MeshError } from '../../common/errors.js';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import { isTerminal } from '../core/job.js';
import type { JobRow, Store, TaskRow } from '../ports.js';
import type { Changes, OutputEvent } from './changes.js';
import type { Jobs } from './jobs.js';
import { leftOut, type LogStore } from './log-store.js';

const TASKS_PER_PAGE = 200;
/** Live output a slow reader may lag behind by; older events are dropped and noted. */
const HELD_BYTES_MAX = 32 * 2 ** 20;

export interface LogQuery {
  index: number | undefined;
  attempt: number | undefined;
  follow: boolean;
}

export class LogReader {
  constructor(
    private readonly store: Store,
    private readonly logs: LogStore,
    private readonly jobs: Jobs,
    private readonly changes: Changes,
  ) {}

  /** @throws MeshError NOT_FOUND when the job has no such task */
  async *read(job: JobRow, query: LogQuery, gone: AbortSignal): AsyncGenerator<LogEntry[]> {
    if (query.index !== undefined && query.index >= job.counts.total)
      throw new MeshError('NOT_FOUND', `job ${job.id} has no task ${query.index}`, {
        hint: `see: mesh tasks ${job.id}`,
      });
    const follows = query.follow && query.attempt === undefined;
    const live = follows ? new Follower(this.changes, this.jobs, job, query.index, gone) : undefined;
    try {
      const shown = new Map<number, { generation: number; offset: number }>();
      for await (const entries of this.#stored(job, query, shown)) yield entries;
      const ended = () => this.#taskEnded(job, query.index);
      if (live && !(await ended())) yield* live.rest(shown, ended);
    } finally {
      live?.close();
    }
  }

  async #taskEnded(job: JobRow, index: number | undefined): Promise<boolean> {
    if (index === undefined) return false;
    const [row] = await this.store.tasks.list({ job: job.seq, fromIndex: index, limit: 1 });
    return row?.index === index && ['COMPLETED', 'FAILED', 'CANCELLED'].includes(row.status);
  }

  async *#stored(
    job: JobRow,
    query: LogQuery,
    shown: Map<number, { generation: number; offset: number }>,
  ): AsyncGenerator<LogEntry[]> {
    for (let fromIndex = query.index ?? 0; ; ) {
      const limit = query.index === undefined ? TASKS_PER_PAGE : 1;
      const rows = await this.store.tasks.list({ job: job.seq, fromIndex, limit });
      for (const row of rows) {
        if (query.index !== undefined && row.index !== query.index) return;
        yield* this.#attempt(job, row, query, shown);
      }
      if (rows.length < limit || query.index !== undefined) return;
      fromIndex = (rows.at(-1)?.index ?? fromIndex) + 1;
    }
  }

  /** One attempt of a task: the latest, or the one that was asked for. */
  async *#attempt(
    job: JobRow,
    row: TaskRow,
    query: LogQuery,
    shown: Map<number, { generation: number; offset: number }>,
  ): AsyncGenerator<LogEntry[]> {
    if (row.generation === 0) return;
    const chosen = await this.#choose(job, row, query.attempt);
    if (!chosen) return;
    const { generation, number, output } = chosen;
    const startedAtMs = chosen.startedAtMs ?? row.assignedAtMs ?? row.queuedAtMs;
    let offset = 0;
    for await (const chunk of this.#chunks({ jobId: job.id, index: row.index, generation }, output)) {
      offset = chunk.offset + chunk.data.length;
      yield [toEntry(row.index, number, startedAtMs, chunk)];
    }
    if (query.follow) shown.set(row.index, { generation, offset });
  }

  /** A live or successful attempt is the row's; one that ended otherwise left a record with its number and output. */
  async #choose(job: JobRow, row: TaskRow, wanted: number | undefined): Promise<ChosenAttempt | undefined> {
    const present = { ...row, number: row.failures + row.losses + 1 };
    const began = ['ASSIGNED', 'RUNNING', 'COMPLETED'].includes(row.status);
    if (began && (wanted ?? present.number) === present.number) return present;
    const ended = await this.store.tasks.attempts(job.seq, row.index);
    const past = wanted === undefined ? ended.at(-1) : ended.find(({ attempt }) => attempt === wanted);
    return past && { ...past, number: past.attempt };
  }

  /** The streamed file, then what the result's tail adds to it. */
  async *#chunks(
    key: { jobId: string; index: number; generation: number },
    output: Uint8Array | undefined,
  ): AsyncGenerator<OutputChunk> {
    let next = 0;
    if (this.logs.has(key)) {
      for await (const chunk of this.logs.read(key)) {
        next = chunk.offset + chunk.data.length;
        yield chunk;
      }
    }
    if (!output) return;
    for (const chunk of OutputTail.decode(output).chunks) {
      const fresh = unseen(chunk, next);
      if (!fresh) continue;
      if (fresh.offset > next) yield leftOut(next, fresh);
      next = fresh.offset + fresh.data.length;
      yield fresh;
    }
  }
}

interface ChosenAttempt {
  generation: number;
  /** From 1, as people count. */
  number: number;
  startedAtMs: number | undefined;
  output: Uint8Array | undefined;
}

/** The part of a chunk from an offset on; undefined when there is none. */
function unseen(chunk: OutputChunk, from: number): OutputChunk | undefined {
  if (chunk.offset + chunk.data.length <= from) return undefined;
  if (chunk.offset >= from) return chunk;
  return { ...chunk, offset: from, data: chunk.data.subarray(from - chunk.offset) };
}

const toEntry = (index: number, attempt: number, startedAtMs: number, chunk: OutputChunk): LogEntry => ({
  index,
  attempt,
  stream: chunk.stream,
  atMs: Math.round(startedAtMs + chunk.atMs),
  data: chunk.data,
});

/** Live output of a job from the moment it was made. */
class Follower {
  #held: OutputEvent[] = [];
  #heldBytes = 0;
  #wake: (() => void) | undefined;
  /** An attempt of the one task that is followed has ended. */
  #attemptEnded = false;
  readonly #stop: (() => void)[] = [];

  constructor(
    changes: Changes,
    private readonly jobs: Jobs,
    private readonly job: JobRow,
    private readonly index: number | undefined,
    private readonly gone: AbortSignal,
  ) {
    const poke = () => this.#wake?.();
    this.#stop.push(
      changes.output.subscribe(job.seq, (event) => {
        if (index === undefined || event.index === index) this.#hold(event);
        poke();
      }),
      changes.jobs.subscribe(job.seq, poke),
    );
    gone.addEventListener('abort', poke);
    this.#stop.push(() => gone.removeEventListener('abort', poke));
  }

  #hold(event: OutputEvent): void {
    this.#held.push(event);
    if (event.last && event.index === this.index) this.#attemptEnded = true;
    for (const chunk of event.chunks) this.#heldBytes += chunk.data.length;
    while (this.#heldBytes > HELD_BYTES_MAX && this.#held.length > 1) {
      const dropped = this.#held.shift();
      for (const chunk of dropped?.chunks ?? []) this.#heldBytes -= chunk.data.length;
    }
  }

  /** Until the job (or the task, when one was asked for) has ended. An attempt that is tried again ends nothing. */
  async *rest(
    shown: Map<number, { generation: number; offset: number }>,
    taskEnded: () => Promise<boolean>,
  ): AsyncGenerator<LogEntry[]> {
    for (let over = false; !this.gone.aborted; ) {
      const events = this.#held;
      this.#held = [];
      this.#heldBytes = 0;
      for (const event of events) {
        const entries = fresh(event, shown);
        if (entries.length > 0) yield entries;
      }
      if (this.#attemptEnded) {
        this.#attemptEnded = false;
        over = await taskEnded();
      }
      over ||= isTerminal(this.job.status) || this.jobs.get(this.job.seq) === undefined;
      // Something may have come while the reader was busy with the last of it; nobody would wake it for that again.
      if (this.#held.length > 0 || this.gone.aborted) continue;
      if (over) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  close(): void {
    for (const stop of this.#stop) stop();
  }
}

function fresh(event: OutputEvent, shown: Map<number, { generation: number; offset: number }>): LogEntry[] {
  const known = shown.get(event.index);
  if (known && known.generation > event.generation) return [];
  let next = known?.generation === event.generation ? known.offset : 0;
  const entries: LogEntry[] = [];
  for (const chunk of event.chunks) {
    const part = unseen(chunk, next);
    if (!part) continue;
    if (part.offset > next) entries.push(toEntry(event.index, event.attempt, event.startedAtMs, leftOut(next, part)));
    next = part.offset + part.data.length;
    entries.push(toEntry(event.index, event.attempt, event.startedAtMs, part));
  }
  if (event.last) shown.delete(event.index);
  else shown.set(event.index, { generation: event.generation, offset: next });
  return entries;
}
