/**
 * One batch in the runner: hands its items to a worker thread, watches the one that runs, and after the worker's end
 * hands what is left to the next one.
 *
 * An item that runs longer than the stall time is reported as started, and those behind it are given back to the agent,
 * which has other slots for them. When a worker dies or is killed, the item it was at answers for it; items that had
 * ended without being reported yet (at most a few milliseconds' worth) run again: execution is at least once.
 */
import {
  type BatchMessage,
  CLOSED,
  CONTROL_BYTES,
  type Control,
  CURSOR,
  type FromRunner,
  type ItemColumns,
  type KilledHow,
  openControl,
  threadsNowMs,
  type WorkerReport,
  type WorkerTask,
} from './protocol.js';

const STALL_MS = 100;
/** Workers that may die before they begin, until the batch is given up. */
const BOOT_FAILURES_MAX = 3;

export type RunInWorker = (task: WorkerTask, signal: AbortSignal) => Promise<number>;

interface Dispatch {
  id: number;
  /** Positions in the batch, in the order the worker runs them. */
  positions: number[];
  control: Control;
  abort: AbortController;
  /** Why the runner killed the worker, if it did. */
  ending: Exclude<KilledHow, 'failed'> | undefined;
  received: number;
  /** How many results the worker said there are. */
  total: number | undefined;
  complete: () => void;
}

let dispatches = 0;

export class Batch {
  readonly #message: BatchMessage;
  readonly #run: RunInWorker;
  readonly #send: (message: FromRunner) => void;
  readonly #scratch: string;
  /** 1 once reported, whatever was reported. */
  readonly #settled: Uint8Array;
  readonly #started: Uint8Array;
  readonly #stops = new Map<number, 'cancelled' | 'shutdown' | 'fenced'>();
  #current: Dispatch | undefined;
  #bootFailures = 0;

  constructor(message: BatchMessage, run: RunInWorker, scratch: string, send: (message: FromRunner) => void) {
    this.#message = message;
    this.#run = run;
    this.#scratch = scratch;
    this.#send = send;
    this.#settled = new Uint8Array(message.items.count);
    this.#started = new Uint8Array(message.items.count);
  }

  /** Resolves when everything was reported. */
  async run(): Promise<void> {
    for (let left = this.#left(); left.length > 0; left = this.#left()) {
      const current = this.#open(left);
      this.#current = current;
      const completed = new Promise<void>((resolve) => (current.complete = resolve));
      let failure: unknown;
      try {
        current.total = await this.#run(this.#task(current), current.abort.signal);
        if (current.received < current.total) await completed;
      } catch (error) {
        failure = error ?? new Error('the worker ended');
      }
      this.#current = undefined;
      if (failure !== undefined && !this.#blame(current, failure)) break;
    }
    this.#send({ kind: 'over', id: this.#message.id });
  }

  /** What a worker reports; false when it is not about this batch as it stands. */
  report(report: WorkerReport): boolean {
    const current = this.#current;
    if (current?.id !== report.dispatch) return false;
    const { id } = this.#message;
    for (const { position, stream, text } of report.output)
      this.#send({ kind: 'output', id, position: current.positions[position] ?? 0, stream, text });
    const { results, errors, runUs } = report;
    const ended = current.positions.slice(report.from, report.from + runUs.length);
    for (const position of ended) this.#settled[position] = 1;
    const [first] = ended;
    // They rise, so nothing is missing between the first and the last of them.
    const positions = ended.at(-1) === (first as number) + ended.length - 1 ? [] : ended;
    if (first !== undefined) this.#send({ kind: 'ended', id, first, positions, results, errors, runUs });
    current.received += ended.length;
    if (current.received === current.total) current.complete();
    return true;
  }

  stop(position: number, reason: 'cancelled' | 'shutdown' | 'fenced'): void {
    if (this.#settled[position] !== 0 || this.#stops.has(position)) return;
    this.#stops.set(position, reason);
    const current = this.#current;
    if (!current) return;
    const at = current.positions.indexOf(position);
    const cursor = this.#close(current);
    if (at > cursor) this.#stopped(position, reason);
    else if (at === cursor && at >= 0) this.#kill(current, reason);
  }

  /** Called every few milliseconds while batches run. */
  watch(nowMs: number): void {
    const current = this.#current;
    if (!current) return;
    const cursor = Atomics.load(current.control.flags, CURSOR);
    const position = current.positions[cursor];
    if (position === undefined || this.#settled[position]) return;
    const ageMs = nowMs - (current.control.startedMs[0] as number);
    if (ageMs >= STALL_MS && !this.#started[position]) {
      this.#started[position] = 1;
      this.#send({ kind: 'started', id: this.#message.id, position, ageMs: Math.round(ageMs) });
      this.#giveBack(current);
    }
    const { timeoutMs } = this.#message;
    if (timeoutMs > 0 && ageMs >= timeoutMs) this.#kill(current, 'timed-out');
  }

  /** The pool failed before a worker took the dispatch. */
  abandon(): void {
    if (this.#current && Atomics.load(this.#current.control.flags, CURSOR) < 0) this.#current.abort.abort();
  }

  #left(): number[] {
    const left: number[] = [];
    for (let position = 0; position < this.#settled.length; position++) {
      if (this.#settled[position]) continue;
      const reason = this.#stops.get(position);
      if (reason) this.#stopped(position, reason);
      else left.push(position);
    }
    return left;
  }

  #open(positions: number[]): Dispatch {
    const buffer = new SharedArrayBuffer(CONTROL_BYTES);
    const control = openControl(buffer);
    control.flags[CURSOR] = -1;
    const abort = new AbortController();
    const id = ++dispatches;
    return { id, positions, control, abort, ending: undefined, received: 0, total: undefined, complete: () => {} };
  }

  #task(current: Dispatch): WorkerTask {
    const { items, work } = this.#message;
    const all = current.positions.length === items.count;
    return {
      dispatch: current.id,
      work,
      items: all ? items : pick(items, current.positions),
      control: current.control.flags.buffer as SharedArrayBuffer,
      scratch: this.#scratch,
    };
  }

  /** After this, no item behind the returned cursor begins. */
  #close(current: Dispatch): number {
    Atomics.store(current.control.flags, CLOSED, 1);
    return Atomics.load(current.control.flags, CURSOR);
  }

  #giveBack(current: Dispatch): void {
    const cursor = this.#close(current);
    const positions = current.positions.slice(cursor + 1).filter((position) => !this.#settled[position]);
    if (positions.length === 0) return;
    for (const position of positions) this.#settled[position] = 1;
    this.#send({ kind: 'returned', id: this.#message.id, positions });
  }

  #stopped(position: number, reason: 'cancelled' | 'shutdown' | 'fenced'): void {
    this.#settled[position] = 1;
    this.#send({ kind: 'stopped', id: this.#message.id, position, reason });
  }

  #kill(current: Dispatch, ending: Exclude<KilledHow, 'failed'>): void {
    if (current.ending) return;
    current.ending = ending;
    current.abort.abort();
  }

  /** The item under the cursor answers for its worker's end. False when no worker ever began: nothing more can run. */
  #blame(current: Dispatch, failure: unknown): boolean {
    const { id } = this.#message;
    const cursor = Atomics.load(current.control.flags, CURSOR);
    const position = current.positions[cursor];
    if (position === undefined) {
      if (++this.#bootFailures < BOOT_FAILURES_MAX) return true;
      this.#send({ kind: 'fault', id, error: `no worker could be started: ${describeDeath(failure)}` });
      return false;
    }
    if (this.#settled[position]) return true;
    this.#settled[position] = 1;
    const runUs = Math.round((threadsNowMs() - (current.control.startedMs[0] as number)) * 1000);
    const how = current.ending ?? 'failed';
    this.#send({ kind: 'killed', id, position, how, error: how === 'failed' ? describeDeath(failure) : '', runUs });
    return true;
  }
}

function pick(items: ItemColumns, positions: number[]): ItemColumns {
  const column = <T>(values: T[]): T[] =>
    values.length === 0 ? [] : positions.map((position) => values[position] as T);
  return {
    count: positions.length,
    first: items.first,
    indexes: positions.map((position) => items.indexes[position] ?? items.first + position),
    arrayIndexes: column(items.arrayIndexes),
    attempts: column(items.attempts),
    generations: column(items.generations),
    values: column(items.values),
    directories: items.directories && column(items.directories),
  };
}

function describeDeath(failure: unknown): string {
  const { code, message = String(failure) } = failure as { code?: string; message?: string };
  if (code === 'ERR_WORKER_OUT_OF_MEMORY') return 'ran out of memory: ask for more with --memory';
  const exit = /exited with code: (-?\d+)/.exec(message);
  if (exit) return `ended its worker: process.exit(${exit[1]})`;
  const stack = (failure as { stack?: string }).stack?.split('\n').slice(0, 5).join('\n');
  return `crashed its worker: ${stack ?? message}`.slice(0, 2000);
}
