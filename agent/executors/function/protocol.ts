/**
 * What the agent and its function runner say to each other: one JSON document a line over a socket pair. Attempts go in
 * batches, as columns; arguments and results stay JSON text on the way and are parsed only where the function runs.
 *
 * The runner is not trusted: a function can write to its descriptors. It can only spoil attempts that run beside it, in
 * the same process and as the same user; the agent checks the shape of what it reads.
 */

/** Agent to runner. */
export type ToRunner = BatchMessage | StopMessage;

export interface BatchMessage {
  kind: 'batch';
  id: number;
  work: FunctionWorkload;
  /** Zero means none; counted for each attempt by itself. */
  timeoutMs: number;
  /** Old-generation heap of a worker; zero means Node's default. */
  memoryBytes: number;
  items: ItemColumns;
}

/** What a worker thread needs beside the items. */
export interface FunctionWorkload {
  /** URL of the module file. */
  module: string;
  /** Empty: the default export, or the only function exported. */
  exportName: string;
  environment: Record<string, string>;
  jobId: string;
  taskCount: number;
  node: string;
}

/** One entry per attempt in each column; a column that says nothing is empty. */
export interface ItemColumns {
  count: number;
  /** Index of the first. */
  first: number;
  /** Empty: they follow one another. */
  indexes: number[];
  /** Empty: they are the indexes. */
  arrayIndexes: number[];
  /** Empty: all are the first. */
  attempts: number[];
  /** Empty: all are 1. */
  generations: number[];
  /** JSON text; empty means the array index is the argument, for one or for all. */
  values: string[];
  /** Private directories that hold staged files; empty: made when asked for. Undefined when no attempt has one. */
  directories: string[] | undefined;
}

export interface StopMessage {
  kind: 'stop';
  id: number;
  position: number;
  reason: 'cancelled' | 'shutdown' | 'fenced';
}

/** Runner to agent. */
export type FromRunner =
  | { kind: 'ready' }
  /** Ended by themselves. */
  | ({
      kind: 'ended';
      id: number;
      /** Position of the first. */
      first: number;
      /** Empty: they follow one another. */
      positions: number[];
    } & EndColumns)
  /** Its worker was killed, or died, while this one ran. */
  | { kind: 'killed'; id: number; position: number; how: KilledHow; error: string; runUs: number }
  /** Stopped before they began. */
  | { kind: 'stopped'; id: number; position: number; reason: 'cancelled' | 'shutdown' | 'fenced' }
  | { kind: 'started'; id: number; position: number; ageMs: number }
  /** Not begun, because another one of the batch takes long. */
  | { kind: 'returned'; id: number; positions: number[] }
  | { kind: 'output'; id: number; position: number; stream: number; text: string }
  /** No worker could be started; nothing more of the batch will run. */
  | { kind: 'fault'; id: number; error: string }
  /** Everything of the batch was reported. */
  | { kind: 'over'; id: number };

export type KilledHow = 'timed-out' | 'cancelled' | 'shutdown' | 'fenced' | 'failed';

/** What came of successive items. */
export interface EndColumns {
  /** JSON text, or null beside an error; one for all where all are the same. */
  results: (string | null)[];
  /** Empty: there are none. */
  errors: (string | null)[];
  /** One for each: so many items there are. */
  runUs: number[];
}

/** Runner to worker: items to run one after the other. */
export interface WorkerTask {
  dispatch: number;
  work: FunctionWorkload;
  items: ItemColumns;
  /** See `openControl`. */
  control: SharedArrayBuffer;
  /** Where private directories are made on demand. */
  scratch: string;
}

/** Worker to runner, as often as results have gathered for a moment. */
export interface WorkerReport extends EndColumns {
  dispatch: number;
  /** Position of the first result in the dispatch. */
  from: number;
  output: { position: number; stream: number; text: string }[];
}

/**
 * Memory shared by the runner and a worker. The worker stores which item it begins and when, then looks whether the
 * batch was closed; the runner closes it, then looks which item had begun. Both are sequentially consistent, so no item
 * after the one the runner sees will begin.
 */
export interface Control {
  flags: Int32Array;
  /** When the item under the cursor began, on the process's monotonic clock. */
  startedMs: Float64Array;
}

export const CURSOR = 0;
export const CLOSED = 1;
export const CONTROL_BYTES = 16;

export const openControl = (buffer: SharedArrayBuffer): Control => ({
  flags: new Int32Array(buffer, 0, 2),
  startedMs: new Float64Array(buffer, 8, 1),
});

/** Bytes of JSON a function may return. */
export const RESULT_BYTES_MAX = 64 * 1024;

const offsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();
/** Monotonic and the same in every thread of the process, unlike `performance.now()`. */
export const threadsNowMs = (): number => performance.now() + offsetMs;
