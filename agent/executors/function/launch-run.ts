/**
 * One launch of function attempts, from the agent's side: sends it to the shared runner and turns what comes back into
 * ends. When the runner itself dies, nobody can say which of the attempts inside did it; so each of them that has not
 * ended runs again alone in a runner of its own, and only one whose own runner dies is to blame.
 */
import { Stream } from '../../../proto/gen/mesh/v1/common.js';
import type {
  AttemptEnd,
  AttemptOutcome,
  AttemptSpec,
  LaunchObserver,
  LaunchSpec,
  OutputSink,
  StopReason,
} from '../../core/types.js';
import { arrayIndexOf } from '../../core/types.js';
import { describeDuration, stopProblem } from '../problems.js';
import type { BatchMessage, FromRunner, FunctionWorkload, ItemColumns } from './protocol.js';
import type { RunnerExit, RunnerProcess } from './runner-process.js';

let batches = 0;

export interface LaunchContext {
  /** The executor kills its runners: their death is nobody's fault. */
  closing: () => boolean;
  work: FunctionWorkload;
  /** Private directories with staged files, by position; undefined when no attempt has files. */
  directories: string[] | undefined;
  /** Hears how long attempts took, in microseconds. */
  measure: (count: number, totalUs: number) => void;
}

/** Positions that have not ended: all at first. */
class Open {
  readonly #ended: Uint8Array;
  size: number;

  constructor(count: number) {
    this.#ended = new Uint8Array(count);
    this.size = count;
  }

  has(position: number): boolean {
    return this.#ended[position] === 0;
  }

  /** False when it had ended before. */
  delete(position: number): boolean {
    if (this.#ended[position] !== 0) return false;
    this.#ended[position] = 1;
    this.size--;
    return true;
  }

  *[Symbol.iterator](): Generator<number, undefined> {
    for (let position = 0; position < this.#ended.length; position++) if (this.has(position)) yield position;
    return undefined;
  }
}

export class LaunchRun {
  readonly #launch: LaunchSpec;
  readonly #observer: LaunchObserver;
  readonly #open: Open;
  readonly #stops = new Map<number, StopReason>();
  readonly #started = new Set<number>();
  readonly #sinks = new Map<number, OutputSink>();
  #context: LaunchContext | undefined;
  #runner: RunnerProcess | undefined;
  /** The batch in the runner, and the launch's position of each of its items. */
  #batch = 0;
  #positions: number[] = [];

  constructor(launch: LaunchSpec, observer: LaunchObserver) {
    this.#launch = launch;
    this.#observer = observer;
    this.#open = new Open(launch.attempts.length);
  }

  /** Ends every attempt that is still open. */
  endAll(outcome: AttemptOutcome, error: string): void {
    for (const position of this.#open) this.#end(position, { ...blank, outcome, error });
  }

  stop(position: number, reason: StopReason): void {
    if (!this.#open.has(position) || this.#stops.has(position)) return;
    this.#stops.set(position, reason);
    const at = this.#positions.indexOf(position);
    if (at >= 0) this.#runner?.send({ kind: 'stop', id: this.#batch, position: at, reason });
    else if (this.#context) this.#endStopped(position, reason);
  }

  /** Runs everything that is open in `shared`; after its death each by itself in a runner from `alone`. */
  async run(context: LaunchContext, shared: RunnerProcess, alone: () => RunnerProcess): Promise<void> {
    this.#context = context;
    this.#endAllStopped();
    const exit = await this.#submit(shared, [...this.#open]);
    if (!exit || this.#open.size === 0 || context.closing()) return;
    if (!exit.wasReady) return this.endAll('node-fault', `the function runner could not be started: ${exit.how}`);
    if (exit.batches === 1 && this.#open.size === 1) return this.#blame(exit);
    let runner: RunnerProcess | undefined;
    for (const position of this.#open) {
      if (!runner?.alive) runner = alone();
      const died = await this.#submit(runner, [position]);
      if (context.closing()) return;
      if (died?.wasReady) this.#blame(died, position);
      else if (died) this.endAll('node-fault', `the function runner could not be started: ${died.how}`);
    }
    await runner?.stop();
  }

  #blame(exit: RunnerExit, position = this.#open[Symbol.iterator]().next().value): void {
    if (position === undefined || !this.#open.has(position)) return;
    this.#end(position, { ...blank, outcome: 'failed', error: `the function ended its runner process: ${exit.how}` });
  }

  /** Resolves when all are settled, or with how the runner died. */
  #submit(runner: RunnerProcess, positions: number[]): Promise<RunnerExit | undefined> {
    if (positions.length === 0) return Promise.resolve(undefined);
    this.#runner = runner;
    this.#positions = positions;
    this.#batch = ++batches;
    return new Promise((resolve) => {
      const settle = (exit: RunnerExit | undefined) => {
        this.#runner = undefined;
        this.#positions = [];
        resolve(exit);
      };
      runner.run(this.#message(positions), {
        message: (message) => (message.kind === 'over' ? settle(undefined) : this.#receive(message)),
        lost: settle,
      });
    });
  }

  #message(positions: number[]): BatchMessage {
    const { work, directories } = this.#context as LaunchContext;
    const attempts = positions.map((position) => this.#launch.attempts[position] as AttemptSpec);
    const first = attempts[0]?.index ?? 0;
    /** Nothing where all is as it is usually. */
    const column = <T>(pick: (attempt: AttemptSpec) => T, usual: (attempt: AttemptSpec) => T): T[] =>
      attempts.every((attempt) => pick(attempt) === usual(attempt)) ? [] : attempts.map(pick);
    const items: ItemColumns = {
      count: attempts.length,
      first,
      indexes: attempts.every(({ index }, i) => index === first + i) ? [] : attempts.map(({ index }) => index),
      arrayIndexes: column(arrayIndexOf, ({ index }) => index),
      attempts: column(
        ({ attempt }) => attempt,
        () => 1,
      ),
      generations: column(
        ({ generation }) => generation,
        () => 1,
      ),
      values: column(
        ({ input }) => input?.value ?? '',
        () => '',
      ),
      directories: directories && positions.map((position) => directories[position] ?? ''),
    };
    const { body } = this.#launch;
    const memoryBytes = body.resources?.memoryBytes ?? 0;
    return { kind: 'batch', id: this.#batch, work, timeoutMs: body.timeoutMs, memoryBytes, items };
  }

  #receive(message: FromRunner): void {
    switch (message.kind) {
      case 'ended':
        return this.#endMany(message);
      case 'killed':
        return this.#killed(message);
      case 'stopped':
        return this.#with(message.position, (position) => this.#endStopped(position, message.reason));
      case 'started':
        return this.#with(message.position, (position) => this.#start(position, message.ageMs));
      case 'output':
        return this.#with(message.position, (position) => this.#print(position, message.stream, message.text));
      case 'returned':
        return this.#giveBack(message.positions);
      case 'fault':
        return this.endAll('node-fault', message.error);
      default:
        return undefined;
    }
  }

  /** From the position in the batch to the one in the launch, if it is still open. */
  #with(at: number, then: (position: number) => void): void {
    const position = this.#positions[at];
    if (position !== undefined && this.#open.has(position)) then(position);
  }

  #endMany({ first, positions, results, errors, runUs }: Extract<FromRunner, { kind: 'ended' }>): void {
    if (![positions, results, errors, runUs].every(Array.isArray)) return;
    let totalUs = 0;
    const good: number[] = [];
    const values: string[] = [];
    const tookUs: number[] = [];
    for (let i = 0; i < runUs.length; i++) {
      const result = results.length === 1 ? results[0] : results[i];
      const us = Number(runUs[i]) || 0;
      totalUs += us;
      const position = this.#positions[positions.length > 0 ? (positions[i] as number) : first + i];
      if (position === undefined || !this.#open.has(position)) continue;
      if (typeof result === 'string') {
        this.#open.delete(position);
        this.#sinks.delete(position);
        good.push(position);
        values.push(result);
        tookUs.push(Math.max(0, us));
      } else {
        this.#end(position, { ...blank, outcome: 'failed', error: errors[i] ?? 'failed in an unknown way', runUs: us });
      }
    }
    this.#context?.measure(runUs.length, totalUs);
    if (good.length > 0) this.#observer.succeeded(good, values, tookUs);
  }

  #killed({ position: at, how, error, runUs }: Extract<FromRunner, { kind: 'killed' }>): void {
    this.#with(at, (position) => {
      if (how === 'failed') return this.#end(position, { ...blank, outcome: how, error, runUs });
      if (how !== 'timed-out') return this.#endStopped(position, how, runUs);
      const limit = describeDuration(this.#launch.body.timeoutMs);
      this.#end(position, { ...blank, outcome: how, error: `timed out after ${limit}`, runUs });
    });
  }

  #giveBack(positions: number[]): void {
    const open: number[] = [];
    for (const at of positions) this.#with(at, (position) => open.push(position));
    const returned = open.filter((position) => {
      this.#open.delete(position);
      const reason = this.#stops.get(position);
      if (reason) this.#report(position, stoppedEnd(reason));
      return !reason;
    });
    if (returned.length > 0) this.#observer.returned(returned);
  }

  #start(position: number, ageMs: number): void {
    if (this.#started.has(position)) return;
    this.#started.add(position);
    this.#observer.started(position, ageMs);
  }

  #print(position: number, stream: number, text: string): void {
    let sink = this.#sinks.get(position);
    if (!sink) this.#sinks.set(position, (sink = this.#observer.output(position)));
    const known = stream === Stream.STDERR || stream === Stream.SYSTEM ? stream : Stream.STDOUT;
    sink.write(known, Buffer.from(String(text)));
  }

  #endAllStopped(): void {
    for (const [position, reason] of this.#stops) this.#endStopped(position, reason);
  }

  #endStopped(position: number, reason: StopReason, runUs = 0): void {
    this.#end(position, { ...stoppedEnd(reason), runUs });
  }

  #end(position: number, end: AttemptEnd): void {
    if (this.#open.delete(position)) this.#report(position, end);
  }

  #report(position: number, end: AttemptEnd): void {
    this.#sinks.delete(position);
    this.#observer.ended(position, end);
  }
}

const blank = {
  exitCode: undefined,
  signal: undefined,
  error: undefined,
  runUs: 0,
  peakMemoryBytes: undefined,
  resultJson: undefined,
};

const stoppedEnd = (reason: StopReason): AttemptEnd => ({
  ...blank,
  outcome: reason,
  error: stopProblem(reason),
});
