/**
 * Live output of a job for one reader, from the moment this was made. Events are held in memory up to a bound. Of a reader
 * that lags further behind nothing is held any more: it is noted which attempts he misses something of, and each is read
 * from where it is stored, from where he stopped and at his pace, before live events go on. Every event is emitted after
 * its output was stored, so what was dropped is there, within the bound of the log. An event that comes while its attempt
 * is being read is held again, or noted again; offsets tell what is new.
 */
import { Stream, type OutputChunk } from '../../proto/gen/mesh/v1/common.js';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import { isTerminal } from '../core/job.js';
import type { JobRow } from '../ports.js';
import type { Changes, OutputEvent } from './changes.js';
import type { Jobs } from './jobs.js';
import { leftOut, unseen } from './log-store.js';

/** Live output that is held for one reader. */
const HELD_BYTES_MAX = 2 ** 20;
/** What an event costs that has little output. */
const EVENT_BYTES = 256;
/** Attempts a reader may miss something of; the output of older ones is left out, with a note. */
const BEHIND_MAX = 20_000;

/** By index of the task: the attempt, by its generation, that was shown last, and up to which offset. */
export type Shown = Map<number, { generation: number; offset: number }>;

/** An attempt something is missed of, as its last event named it. */
export type Behind = Omit<OutputEvent, 'chunks'>;

export interface FollowerOptions {
  changes: Changes;
  jobs: Jobs;
  job: JobRow;
  /** Absent: all tasks. */
  index: number | undefined;
  gone: AbortSignal;
  shown: Shown;
  /** What there is of an attempt by now, from an offset on. */
  stored: (attempt: Behind, fromOffset: number) => AsyncIterable<OutputChunk>;
  /** The one task that is followed has come to its end. */
  taskEnded: () => Promise<boolean>;
}

export class Follower {
  readonly #options: FollowerOptions;
  #held: OutputEvent[] = [];
  #heldBytes = 0;
  readonly #behind = new Map<string, Behind>();
  /** Attempts that were behind and are given up. */
  #givenUp = 0;
  #wake: (() => void) | undefined;
  /** An attempt of the one task that is followed has ended. */
  #attemptEnded = false;
  readonly #stop: (() => void)[] = [];

  constructor(options: FollowerOptions) {
    this.#options = options;
    const { changes, job, index, gone } = options;
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
    if (event.last && event.index === this.#options.index) this.#attemptEnded = true;
    if (this.#behind.has(keyOf(event))) return this.#note(event);
    this.#held.push(event);
    this.#heldBytes += sizeOf(event);
    if (this.#heldBytes <= HELD_BYTES_MAX) return;
    for (const held of this.#held.splice(0)) this.#note(held);
    this.#heldBytes = 0;
  }

  #note(event: OutputEvent): void {
    const key = keyOf(event);
    const noted = this.#behind.get(key);
    if (noted) noted.last ||= event.last;
    else this.#behind.set(key, withoutOutput(event));
    if (this.#behind.size <= BEHIND_MAX) return;
    const [oldest] = this.#behind.keys();
    if (oldest !== undefined) this.#behind.delete(oldest);
    this.#givenUp++;
  }

  /** Until the job (or the task, when one was asked for) has ended. An attempt that is tried again ends nothing. */
  async *rest(): AsyncGenerator<LogEntry[]> {
    const { jobs, job, gone, taskEnded } = this.#options;
    for (let over = false; !gone.aborted; ) {
      yield* this.#catchUp();
      while (this.#behind.size === 0 && this.#held.length > 0) {
        const event = this.#held.shift() as OutputEvent;
        this.#heldBytes -= sizeOf(event);
        const entries = this.#fresh(event);
        if (entries.length > 0) yield entries;
      }
      if (this.#behind.size > 0) continue;
      if (this.#attemptEnded) {
        this.#attemptEnded = false;
        over = await taskEnded();
      }
      over ||= isTerminal(job.status) || jobs.get(job.seq) === undefined;
      // Something may have come while the reader was busy with the last of it; nobody would wake it for that again.
      if (this.#held.length > 0 || this.#behind.size > 0 || gone.aborted) continue;
      if (over) return;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Attempts that something is missed of, from where they are stored. */
  async *#catchUp(): AsyncGenerator<LogEntry[]> {
    const { gone, shown, stored } = this.#options;
    for (const [key, attempt] of this.#behind) {
      if (gone.aborted) return;
      // From now on its events are held again; what came before is stored.
      this.#behind.delete(key);
      if (this.#givenUp > 0) {
        yield [toEntry(attempt, givenUpNote(this.#givenUp))];
        this.#givenUp = 0;
      }
      const known = shown.get(attempt.index);
      if (known && known.generation > attempt.generation) continue;
      const fromOffset = known?.generation === attempt.generation ? known.offset : 0;
      for await (const chunk of stored(attempt, fromOffset)) {
        if (chunk.stream !== Stream.SYSTEM)
          shown.set(attempt.index, { generation: attempt.generation, offset: chunk.offset + chunk.data.length });
        yield [toEntry(attempt, chunk)];
        if (gone.aborted) return;
      }
      if (attempt.last) shown.delete(attempt.index);
    }
  }

  #fresh(event: OutputEvent): LogEntry[] {
    const { shown } = this.#options;
    const known = shown.get(event.index);
    if (known && known.generation > event.generation) return [];
    let next = known?.generation === event.generation ? known.offset : 0;
    const entries: LogEntry[] = [];
    for (const chunk of event.chunks) {
      const part = unseen(chunk, next);
      if (!part) continue;
      if (part.offset > next) entries.push(toEntry(event, leftOut(next, part)));
      next = part.offset + part.data.length;
      entries.push(toEntry(event, part));
    }
    if (event.last) shown.delete(event.index);
    else shown.set(event.index, { generation: event.generation, offset: next });
    return entries;
  }

  close(): void {
    for (const stop of this.#stop) stop();
  }
}

const keyOf = ({ index, generation }: Behind): string => `${index}.${generation}`;

const withoutOutput = ({ job, index, generation, attempt, startedAtMs, last }: OutputEvent): Behind => ({
  ...{ job, index, generation, attempt, startedAtMs, last },
});

const sizeOf = ({ chunks }: OutputEvent): number =>
  chunks.reduce((bytes, { data }) => bytes + data.length, EVENT_BYTES);

const givenUpNote = (attempts: number): OutputChunk => ({
  ...{ stream: Stream.SYSTEM, offset: 0, atMs: 0 },
  data: Buffer.from(`[output of ${attempts} attempts left out: it is read too slowly]\n`),
});

export const toEntry = (
  { index, attempt, startedAtMs }: Pick<OutputEvent, 'index' | 'attempt' | 'startedAtMs'>,
  chunk: OutputChunk,
): LogEntry => ({
  index,
  attempt,
  stream: chunk.stream,
  atMs: Math.round(startedAtMs + chunk.atMs),
  data: chunk.data,
});
