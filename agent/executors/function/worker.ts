/**
 * Runs in a worker thread of the runner: one function over the items of a batch, one after the other. Results are
 * reported together, but never held back for long: before an item that follows two milliseconds of work, and by a timer
 * while an item waits for something.
 */
import { mkdirSync, rmSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { parentPort } from 'node:worker_threads';
import {
  CLOSED,
  type Control,
  CURSOR,
  openControl,
  RESULT_BYTES_MAX,
  threadsNowMs,
  type WorkerReport,
  type WorkerTask,
} from './protocol.js';

const REPORT_EVERY_MS = 2;
const REPORT_WAITING_MS = 5;
const OUTPUT_EVERY_MS = 100;
const OUTPUT_BUFFER_CHARS = 16 * 1024;
/** What one attempt may print; the rest is dropped with a note. Functions return results; commands stream output. */
const OUTPUT_CHARS_MAX = 1 << 20;
const STACK_LINES = 5;
const ERROR_CHARS_MAX = 2000;
/** Stream numbers of the protocol. */
const [STDOUT, STDERR, SYSTEM] = [1, 2, 3];

type UserFunction = (value: unknown, context: Context) => unknown;

/** What a function gets beside its value. */
class Context {
  readonly jobId: string;
  readonly index: number;
  readonly arrayIndex: number;
  readonly attempt: number;
  readonly generation: number;
  readonly node: string;
  readonly taskCount: number;
  readonly #files: string | undefined;
  readonly #scratch: string;
  #made: string | undefined;

  constructor(task: WorkerTask, i: number) {
    const { work, items } = task;
    this.jobId = work.jobId;
    this.index = items.indexes[i] ?? items.first + i;
    this.arrayIndex = items.arrayIndexes[i] ?? this.index;
    this.attempt = items.attempts[i] ?? 1;
    this.generation = items.generations[i] ?? 1;
    this.node = work.node;
    this.taskCount = work.taskCount;
    this.#files = items.directories?.[i] || undefined;
    this.#scratch = task.scratch;
  }

  /** A private directory, with the task's files in it; made when first asked for and removed after the attempt. */
  get directory(): string {
    if (this.#files) return this.#files;
    if (!this.#made) {
      this.#made = join(this.#scratch, `${this.jobId}.${this.index}.${this.generation}`);
      mkdirSync(this.#made, { recursive: true, mode: 0o700 });
    }
    return this.#made;
  }

  static clean(context: Context): void {
    if (context.#made) rmSync(context.#made, { recursive: true, force: true });
  }
}

/** Gathers results and output until they are reported. */
class Reporter {
  readonly #dispatch: number;
  #from = 0;
  /** One for all as long as all are the same. */
  #results: (string | null)[] = [];
  /** None as long as there is none. */
  #errors: (string | null)[] = [];
  #runUs: number[] = [];
  #output: WorkerReport['output'] = [];
  #outputChars = 0;
  #printed = 0;
  #lastMs = threadsNowMs();
  #timer: NodeJS.Timeout | undefined;

  constructor(dispatch: number) {
    this.#dispatch = dispatch;
  }

  get count(): number {
    return this.#from + this.#runUs.length;
  }

  add(result: string | null, error: string | null, runUs: number): void {
    const count = this.#runUs.length;
    if (count === 0 || this.#results.length > 1 || this.#results[0] !== result) {
      while (count > 0 && this.#results.length < count) this.#results.push(this.#results[0] as string | null);
      this.#results.push(result);
    }
    if (error !== null || this.#errors.length > 0) {
      while (this.#errors.length < count) this.#errors.push(null);
      this.#errors.push(error);
    }
    this.#runUs.push(runUs);
    this.#printed = 0;
  }

  /** Between items. */
  tick(nowMs: number): void {
    if (nowMs - this.#lastMs >= REPORT_EVERY_MS) this.flush();
  }

  /** The item waits for something: what others earned must not wait with it. */
  waiting(): void {
    if (this.#runUs.length > 0) this.#timer ??= setTimeout(() => this.flush(), REPORT_WAITING_MS);
  }

  print(stream: number, text: string): void {
    const room = OUTPUT_CHARS_MAX - this.#printed;
    if (room <= 0) return;
    this.#printed += text.length;
    this.#output.push({ position: this.count, stream, text: text.slice(0, room) });
    if (text.length > room)
      this.#output.push({ position: this.count, stream: SYSTEM as number, text: '\n… the rest left out …\n' });
    this.#outputChars += text.length;
    if (this.#outputChars > OUTPUT_BUFFER_CHARS || threadsNowMs() - this.#lastMs > OUTPUT_EVERY_MS) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), OUTPUT_EVERY_MS);
  }

  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#lastMs = threadsNowMs();
    if (this.#runUs.length === 0 && this.#output.length === 0) return;
    const report: WorkerReport = {
      dispatch: this.#dispatch,
      from: this.#from,
      results: this.#results,
      errors: this.#errors,
      runUs: this.#runUs,
      output: this.#output,
    };
    this.#from += this.#runUs.length;
    [this.#results, this.#errors, this.#runUs, this.#output, this.#outputChars] = [[], [], [], [], 0];
    parentPort?.postMessage(report);
  }
}

let reporter: Reporter | undefined;
let current: Context | undefined;
offerVariables();
capture(process.stdout, STDOUT as number);
capture(process.stderr, STDERR as number);

/** The variables every task finds, read from the item that runs when they are asked for: setting them costs too much. */
function offerVariables(): void {
  const variables: Record<string, () => unknown> = {
    MESH_JOB_ID: () => current?.jobId,
    MESH_TASK_INDEX: () => current?.index,
    MESH_INDEX: () => current?.arrayIndex,
    MESH_ATTEMPT: () => current?.attempt,
    MESH_GENERATION: () => current?.generation,
    MESH_NODE: () => current?.node,
    MESH_TASK_COUNT: () => current?.taskCount,
  };
  const environment = { ...process.env };
  for (const [name, read] of Object.entries(variables))
    Object.defineProperty(environment, name, { enumerable: true, configurable: true, get: () => String(read()) });
  Object.defineProperty(process, 'env', { value: environment, writable: true, enumerable: true, configurable: true });
  syncBuiltinESMExports();
}

/** What a function prints is the output of the attempt that runs. */
function capture(stream: NodeJS.WriteStream, number: number): void {
  const write = (chunk: unknown, ...rest: unknown[]): boolean => {
    reporter?.print(number, typeof chunk === 'string' ? chunk : Buffer.from(chunk as Uint8Array).toString());
    const done = rest.at(-1);
    if (typeof done === 'function') queueMicrotask(() => done());
    return true;
  };
  Object.defineProperty(stream, 'write', { value: write });
}

/** Returns how many items were run; their results come in reports. */
export default async function runTask(task: WorkerTask): Promise<number> {
  const control = openControl(task.control);
  begin(control, 0);
  reporter = new Reporter(task.dispatch);
  const { stringify } = JSON;
  let run: UserFunction;
  try {
    run = await loadFunction(task.work.module, task.work.exportName);
  } catch (error) {
    const message = describeThrown(error, task.work.module);
    run = () => Promise.reject(new LoadProblem(message));
  }
  for (let i = 0; i < task.items.count; i++) {
    if (i > 0) reporter.tick(begin(control, i));
    if (Atomics.load(control.flags, CLOSED) === 1) break;
    await runItem(task, i, run, reporter, stringify);
  }
  reporter.flush();
  return reporter.count;
}

function begin(control: Control, i: number): number {
  const nowMs = threadsNowMs();
  control.startedMs[0] = nowMs;
  Atomics.store(control.flags, CURSOR, i);
  return nowMs;
}

function runItem(
  task: WorkerTask,
  i: number,
  run: UserFunction,
  report: Reporter,
  stringify: typeof JSON.stringify,
): Promise<void> | undefined {
  const startedMs = threadsNowMs();
  const context = new Context(task, i);
  current = context;
  const end = (result: string | null, error: string | null) => {
    Context.clean(context);
    report.add(result, error, Math.round((threadsNowMs() - startedMs) * 1000));
  };
  const fail = (error: unknown) => end(null, describeThrown(error, task.work.module));
  const settle = (result: unknown) => {
    let json: string;
    try {
      json = toJson(result, stringify);
    } catch (error) {
      return end(null, error instanceof Error ? error.message : String(error));
    }
    end(json, null);
  };
  try {
    const text = task.items.values[i];
    const returned = run(text ? JSON.parse(text) : context.arrayIndex, context);
    if (!isThenable(returned)) {
      settle(returned);
      return undefined;
    }
    report.waiting();
    return Promise.resolve(returned).then(settle, fail);
  } catch (error) {
    fail(error);
    return undefined;
  }
}

const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';

/** The message of an error that is not to be described again. */
class LoadProblem extends Error {}

const loaded = new Map<string, UserFunction>();

async function loadFunction(module: string, exportName: string): Promise<UserFunction> {
  const key = `${module}#${exportName}`;
  let found = loaded.get(key);
  if (!found) {
    found = pickExport((await import(module)) as Record<string, unknown>, exportName);
    loaded.set(key, found);
  }
  return found;
}

function pickExport(exports: Record<string, unknown>, name: string): UserFunction {
  const functions = Object.keys(exports).filter((key) => typeof exports[key] === 'function');
  const wanted = name || (functions.includes('default') || functions.length !== 1 ? 'default' : (functions[0] ?? ''));
  if (functions.includes(wanted)) return exports[wanted] as UserFunction;
  const list = functions.length > 0 ? `; it exports ${functions.join(', ')}` : '';
  throw new LoadProblem(`the module exports no function called ${wanted}${list}`);
}

/** What was returned, as JSON; `undefined` is null. */
function toJson(result: unknown, stringify: typeof JSON.stringify): string {
  if (result === undefined) return 'null';
  let json: string | undefined;
  try {
    json = stringify(result);
  } catch (error) {
    const reason = (error instanceof Error ? error.message : String(error)).split('\n')[0];
    throw new Error(`the result cannot be written as JSON: ${reason}`);
  }
  if (json === undefined) throw new Error(`the result cannot be written as JSON: it is a ${typeof result}`);
  const bytes = Buffer.byteLength(json);
  if (bytes > RESULT_BYTES_MAX)
    throw new Error(`the result is ${bytes} bytes of JSON; at most ${RESULT_BYTES_MAX} are allowed`);
  return json;
}

/** Message and first stack lines, with the module's path replaced by its role. Never throws. */
function describeThrown(error: unknown, module: string): string {
  try {
    if (error instanceof LoadProblem) return error.message;
    if (!(error instanceof Error)) return `threw ${String(error)}`.slice(0, ERROR_CHARS_MAX);
    const text = error.stack?.includes(error.message) ? error.stack : `${error.name}: ${error.message}`;
    const lines = text.replaceAll(module, 'module').split('\n');
    const firstFrame = lines.findIndex((line) => /^\s+at /.test(line));
    const ours = lines.findIndex((line) => line.includes('/worker.js:'));
    const end = firstFrame < 0 ? lines.length : Math.min(firstFrame + STACK_LINES, ours < 0 ? lines.length : ours);
    return lines.slice(0, end).join('\n').slice(0, ERROR_CHARS_MAX);
  } catch {
    return 'threw something that cannot be described';
  }
}
