/**
 * What the parts of an agent say to each other about attempts. The ledger decides what starts; an executor runs it and
 * tells an observer; nothing here does I/O.
 */
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import type { JobSecrets } from './secrets.js';
import type { OutputTail, Stream, TaskInput } from '../../proto/gen/mesh/v1/common.js';

/** Which attempt is meant: the job's number, the task's index, and the generation that fences it. */
export interface AttemptRef {
  readonly job: number;
  readonly index: number;
  readonly generation: number;
}

/** Everything an executor needs to run one attempt. */
export interface AttemptSpec extends AttemptRef {
  /** Failures + losses + 1; what people see as `#N`. */
  readonly attempt: number;
  readonly body: JobBody;
  /** What distinguishes this task; undefined when the index alone does. */
  readonly input: TaskInput | undefined;
}

/** Attempts of one job that start together and hold one slot; they run one after the other. */
export interface LaunchSpec {
  readonly body: JobBody;
  readonly attempts: readonly AttemptSpec[];
  /** Indexes of the GPUs allotted to it. */
  readonly gpus: readonly number[];
  /** What the job's secrets are worth; undefined when it has none. */
  readonly secrets?: JobSecrets | undefined;
}

/**
 * succeeded   exit code 0, or a function that returned.
 * failed      the task's own doing: exit code, signal, thrown error, command not found.
 * timed-out   it ran longer than the job allows.
 * cancelled   somebody asked for it.
 * shutdown    the agent is stopping.
 * fenced      no coordinator was reachable for longer than it may run without one.
 * node-fault  the node could not run it: no disk space, no processes left, a file that could not be fetched.
 */
export type AttemptOutcome = 'succeeded' | 'failed' | 'timed-out' | 'cancelled' | 'shutdown' | 'fenced' | 'node-fault';
/** `fenced` is killed at once, even when it was asked to end before; the others get their grace. */
export type StopReason = 'cancelled' | 'shutdown' | 'fenced';

export interface AttemptEnd {
  outcome: AttemptOutcome;
  exitCode: number | undefined;
  /** The signal's name, such as SIGKILL, when one ended the main process. */
  signal: string | undefined;
  /** One line for a person, with the first stack lines below it for a thrown error. Undefined after success. */
  error: string | undefined;
  /** Microseconds from start to end, on a monotonic clock. */
  runUs: number;
  /** Largest resident size seen of the process tree; undefined when it was too short to sample, and for functions. */
  peakMemoryBytes: number | undefined;
  /** What a function returned, at most 64 KiB of JSON. */
  resultJson: string | undefined;
}

/** Takes an attempt's output. Implemented by the spool. */
export interface OutputSink {
  /** Never fails and never blocks. False asks the writer to pause until `whenDrained` calls back. */
  write(stream: Stream, data: Uint8Array): boolean;
  /** Calls `resume` once, as soon as there is room. */
  whenDrained(resume: () => void): void;
}

/** A sink that can be asked for what goes with the result. */
export interface OutputRecord extends OutputSink {
  tail(): OutputTail | undefined;
}

/** What an executor reports about a launch; positions are those of `LaunchSpec.attempts`. */
export interface LaunchObserver {
  /** The attempt has begun, `ageMs` ago. A short function may end without it. At most once per position. */
  started(position: number, ageMs: number): void;
  /** Where its output goes; asked for at most once per position, for a function only when it prints something. */
  output(position: number): OutputSink;
  /** Nothing of the attempt runs any more. Exactly once for each position that was not returned. */
  ended(position: number, end: AttemptEnd): void;
  /**
   * In place of `ended` for attempts that have all succeeded at about this moment, with nothing to say but what they
   * returned, as JSON, and the microseconds they took; one entry per position in each column.
   * @param exitCode of commands, which return ''
   */
  succeeded(
    positions: readonly number[],
    resultsJson: readonly string[],
    runUs: readonly number[],
    exitCode?: number,
  ): void;
  /** Not begun and not going to be: another one of the launch takes long. Put them back in the queue. */
  returned(positions: readonly number[]): void;
}

export interface RunningLaunch {
  /** Ends one attempt: what has not begun ends at once, what runs is killed. Later calls for it change nothing. */
  stop(position: number, reason: StopReason): void;
  /** Resolves after the last `ended` or `returned`. Never rejects. */
  readonly done: Promise<void>;
}

export interface Executor {
  readonly name: 'process' | 'function';
  /**
   * How many attempts of this job may share one launch now; at least 1.
   * @param share how many attempts wait on this node for each of its slots
   */
  launchMax(body: JobBody, share?: number): number;
  /** Never fails and calls back only after it has returned. */
  start(launch: LaunchSpec, observer: LaunchObserver): RunningLaunch;
}

/** What `succeeded` says of one attempt. */
export const successOf = (resultJson: string, runUs: number, exitCode?: number): AttemptEnd => ({
  outcome: 'succeeded',
  exitCode,
  signal: undefined,
  error: undefined,
  runUs,
  peakMemoryBytes: undefined,
  resultJson: resultJson || undefined,
});

/** The node could not do its part; an attempt that meets it ends as `node-fault`. */
export class NodeFault extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'NodeFault';
  }
}

/** The value of MESH_INDEX: the one its input brings along, the array's value for this task, or the index. */
export function arrayIndexOf(attempt: Pick<AttemptSpec, 'body' | 'index' | 'input'>): number {
  if (attempt.input?.arrayIndex !== undefined) return attempt.input.arrayIndex;
  const array = attempt.body.array;
  return array ? array.start + attempt.index * array.step : attempt.index;
}
