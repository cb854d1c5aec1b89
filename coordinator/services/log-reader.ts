/**
 * Logs of a task or of a whole job, stored and live. A follower subscribes before it reads what is stored; what arrives
 * meanwhile is held back, bounded, and then told from what was read by attempt and offset, so nothing is missed or shown
 * twice. Whoever reads more slowly than tasks print costs no memory: beyond the bound nothing is held, and what is stored
 * is read again from where he stopped.
 */
import { OutputTail, type OutputChunk } from '../../proto/gen/mesh/v1/common.js';
import { MeshError } from '../../common/errors.js';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import type { JobRow, Store, TaskRow } from '../ports.js';
import type { Changes } from './changes.js';
import type { Jobs } from './jobs.js';
import { type Behind, Follower, type Shown, toEntry } from './log-follower.js';
import { leftOut, type LogStore, unseen } from './log-store.js';

const TASKS_PER_PAGE = 200;

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
    const shown: Shown = new Map();
    const live = follows
      ? new Follower({
          ...{ changes: this.changes, jobs: this.jobs, job, index: query.index, gone, shown },
          stored: (attempt, fromOffset) => this.#storedFrom(job, attempt, fromOffset),
          taskEnded: () => this.#taskEnded(job, query.index),
        })
      : undefined;
    try {
      for await (const entries of this.#stored(job, query, shown)) yield entries;
      if (live && !(await this.#taskEnded(job, query.index))) yield* live.rest();
    } finally {
      live?.close();
    }
  }

  async #taskEnded(job: JobRow, index: number | undefined): Promise<boolean> {
    if (index === undefined) return false;
    const [row] = await this.store.tasks.list({ job: job.seq, fromIndex: index, limit: 1 });
    return row?.index === index && ['COMPLETED', 'FAILED', 'CANCELLED'].includes(row.status);
  }

  async *#stored(job: JobRow, query: LogQuery, shown: Shown): AsyncGenerator<LogEntry[]> {
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
  async *#attempt(job: JobRow, row: TaskRow, query: LogQuery, shown: Shown): AsyncGenerator<LogEntry[]> {
    if (row.generation === 0) return;
    const chosen = await this.#choose(job, row, query.attempt);
    if (!chosen) return;
    const { generation, number, output } = chosen;
    const startedAtMs = chosen.startedAtMs ?? row.assignedAtMs ?? row.queuedAtMs;
    let offset = 0;
    for await (const chunk of this.#chunks({ jobId: job.id, index: row.index, generation }, output)) {
      offset = chunk.offset + chunk.data.length;
      yield [toEntry({ index: row.index, attempt: number, startedAtMs }, chunk)];
    }
    if (query.follow) shown.set(row.index, { generation, offset });
  }

  /** What there is by now of an attempt, from an offset on. */
  async *#storedFrom(
    job: JobRow,
    { index, generation, attempt }: Behind,
    fromOffset: number,
  ): AsyncGenerator<OutputChunk> {
    const [row] = await this.store.tasks.list({ job: job.seq, fromIndex: index, limit: 1 });
    const chosen = row?.index === index ? await this.#choose(job, row, attempt) : undefined;
    const output = chosen?.generation === generation ? chosen.output : undefined;
    yield* this.#chunks({ jobId: job.id, index, generation }, output, fromOffset);
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
    fromOffset = 0,
  ): AsyncGenerator<OutputChunk> {
    let next = fromOffset;
    if (this.logs.has(key)) {
      for await (const chunk of this.logs.read(key, fromOffset)) {
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
