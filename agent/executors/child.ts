/**
 * A process that somebody started for us: this process itself (`startHere`), or the spawner beside it. Whoever it was,
 * it has a session of its own, empty input, and output that waits while nobody takes it.
 */
import { type ChildProcess, spawn, type StdioOptions } from 'node:child_process';
import { chownSync, mkdirSync } from 'node:fs';
import type { Duplex, Readable } from 'node:stream';
import { systemCode } from '../../common/errors.js';
import { NodeFault } from '../core/types.js';
import { sendSignal } from './process-table.js';
import { type Bounds, needsLauncher } from './sandbox/bounds.js';
import { Complaint, launch, makeToken } from './sandbox/launcher.js';
import type { TaskUser } from './user.js';

/** Make it before and look at it after, or look at it before, too: one that is not as it is made is put aside for a new one. */
export type DirectoryCare = 'make' | 'check';

/** What to start, and how. */
export interface StartPlan {
  /** The program first; it is looked for in the PATH of `environment`. */
  argv: readonly string[];
  environment: Readonly<Record<string, string>>;
  /** Where it starts. */
  directory: string;
  /** Only the spawner looks: see `Ended.directoryPristine`. */
  directoryCare?: DirectoryCare | undefined;
  user: TaskUser | undefined;
  /** Of these the limits that the system sets on a process (open files, file size, CPU time). */
  bounds: Bounds;
  /** It talks to us over descriptor 3, both ways. Only `startHere` can do that. */
  linked?: boolean;
  /** It reports on the next descriptor, if this is there, and finds these words on the one after it. */
  words?: string;
}

export interface Ended {
  exitCode: number | undefined;
  /** The signal's name. */
  signal: string | undefined;
  /** From start to end, where whoever started it measured that. */
  runMs?: number;
  /**
   * Of a plan with `directoryCare`: when the process, its group and its output had ended, the directory was empty and its
   * user's alone, as it is made.
   */
  directoryPristine?: boolean;
  /** The one it was given was not as it is made, and lies now beside the new one, with this after its name. */
  directoryAside?: string | undefined;
}

/** What a process group is told. */
export type GroupSignal = 'SIGTERM' | 'SIGKILL';

/** Standard output or standard error. */
export type OutputIndex = 0 | 1;

export interface Child {
  /** Undefined until it is known, and for good when it could not be started. */
  readonly pid: number | undefined;
  /** Calls back, at once or later, with the pid; never for one that could not be started. */
  whenKnown(use: (pid: number) => void): void;
  /** Somebody needs to know the pid now; otherwise it may come only when the process has run for a while. */
  ask(): void;
  /** What a launcher in front of the command had to say; undefined when there is none. */
  readonly complaint: Complaint | undefined;
  onReport(use: (text: string) => void): void;
  /** Call it once, in the turn in which the child was started. */
  onOutput(use: (stream: OutputIndex, data: Buffer) => void): void;
  pause(stream: OutputIndex): void;
  resume(stream: OutputIndex): void;
  /** Whether somebody made its output wait. */
  readonly paused: boolean;
  /** Rejects with a system error when it could not be started, with a NodeFault when nobody knows how it ended. */
  readonly exited: Promise<Ended>;
  /** Resolves when nobody holds its output open any more; after `exited`. Rejects with a NodeFault when some of it is lost. */
  readonly closed: Promise<void>;
  /** Stops reading: whoever still holds the output open writes to nobody. What was written earlier may still come. */
  abandon(): void;
  /** To its process group, from the moment it is started, as long as the number is its own. */
  signalGroup(signal: GroupSignal): void;
}

/** How a plan is carried out. Throws what `spawn` throws: for arguments that no process can be given. */
export type Starter<C extends Child = Child> = (plan: StartPlan) => C;

export class ChildHere implements Child {
  readonly process: ChildProcess;
  readonly complaint: Complaint | undefined;
  readonly exited: Promise<Ended>;
  readonly closed: Promise<void>;
  readonly #report: Duplex | undefined;

  constructor(plan: StartPlan) {
    const { directory, user, words } = plan;
    if (plan.directoryCare === 'make') makeDirectory(directory, user);
    let started: Pick<StartPlan, 'argv' | 'environment'> = plan;
    if (needsLauncher(plan.bounds)) {
      const token = makeToken();
      this.complaint = new Complaint([token]);
      started = launch(plan, token);
    }
    const [program, ...args] = started.argv as [string, ...string[]];
    const linked = plan.linked === true ? 1 : 0;
    const child = spawn(program, args, {
      cwd: directory,
      env: started.environment,
      stdio: standardStreams(linked + (words === undefined ? 0 : 2)),
      detached: true,
      // libuv also clears the supplementary groups when it is given a user.
      ...(user ? { uid: user.uid, gid: user.gid } : {}),
    });
    this.process = child;
    this.closed = new Promise((resolve) => child.once('close', () => resolve()));
    this.exited = new Promise((resolve, reject) => {
      child.once('exit', (exitCode, signal) =>
        resolve({ exitCode: exitCode ?? undefined, signal: signal ?? undefined }),
      );
      // Later ones are of a signal that could not be sent, and change nothing.
      child.on('error', reject);
    });
    this.exited.catch(() => undefined);
    if (child.pid === undefined || words === undefined) return;
    const [report, given] = [child.stdio[3 + linked] as Duplex, child.stdio[4 + linked] as Duplex];
    this.#report = report.setEncoding('utf8');
    for (const channel of [report, given]) channel.on('error', () => undefined);
    given.end(words);
  }

  get pid(): number | undefined {
    return this.process.pid;
  }

  whenKnown(use: (pid: number) => void): void {
    if (this.process.pid !== undefined) use(this.process.pid);
  }

  ask(): void {}

  onReport(use: (text: string) => void): void {
    this.#report?.on('data', use);
  }

  onOutput(use: (stream: OutputIndex, data: Buffer) => void): void {
    for (const stream of [0, 1] as const) {
      this.#stream(stream)?.on('data', (data: Buffer) => use(stream, data));
      this.#stream(stream)?.on('error', () => undefined);
    }
  }

  pause(stream: OutputIndex): void {
    this.#stream(stream)?.pause();
  }

  resume(stream: OutputIndex): void {
    this.#stream(stream)?.resume();
  }

  get paused(): boolean {
    return ([0, 1] as const).some((stream) => this.#stream(stream)?.isPaused() === true);
  }

  abandon(): void {
    for (const stream of [0, 1] as const) this.#stream(stream)?.destroy();
  }

  signalGroup(signal: GroupSignal): void {
    if (this.pid !== undefined) sendSignal(-this.pid, signal);
  }

  #stream(stream: OutputIndex): Readable | null {
    return stream === 0 ? this.process.stdout : this.process.stderr;
  }
}

export const startHere: Starter<ChildHere> = (plan) => new ChildHere(plan);

/**
 * A private directory, of the task's user.
 * @throws NodeFault
 */
function makeDirectory(path: string, user: TaskUser | undefined): void {
  try {
    mkdirSync(path, { mode: 0o700 });
    if (user) chownSync(path, user.uid, user.gid);
  } catch (error) {
    throw new NodeFault(`no working directory could be made: ${systemCode(error) ?? String(error)}`, error);
  }
}

/** No input, output and error as pipes, and so many channels more. */
const standardStreams = (more: number): StdioOptions => [
  'ignore',
  'pipe',
  'pipe',
  ...Array.from({ length: more }, () => 'pipe' as const),
];
