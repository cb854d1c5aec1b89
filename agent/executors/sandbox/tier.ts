/**
 * How a command is kept apart from the machine it runs on. An executor prepares a directory and an environment, a tier
 * starts the command in it; the life of the process after that (output, timeouts, grace, strays) is the same in all of
 * them. What a tier adds of its own, launchers and the first process of a namespace, are its keepers: they are neither
 * signalled nor measured as if they were the task's.
 */
import { type ChildProcess, spawn, type StdioOptions } from 'node:child_process';
import { sendSignal } from '../process-table.js';
import type { TaskUser } from '../user.js';
import { type Bounds, needsLauncher } from './bounds.js';
import { Complaint, launch, makeToken } from './launcher.js';

export type TierName = 'bubblewrap' | 'process';

export interface Command {
  /** The program first. Never empty. */
  argv: readonly string[];
  /** All it finds; nothing of the agent's own is added. */
  environment: Readonly<Record<string, string>>;
  /** The only place it may write to, and where it starts unless `startsIn` names a folder in it. */
  directory: string;
  startsIn?: string;
  /** See strays.ts. */
  cookie: string;
  /** Who it runs as; undefined: as the agent does. */
  user: TaskUser | undefined;
  /** Indexes of the GPUs allotted to it. */
  gpus: readonly number[];
  /** Whether it may use the network. */
  net: boolean;
  bounds: Bounds;
  /** Paths beside the system's that it may read. */
  readable?: readonly string[];
  /** It talks to the agent over descriptor 3. */
  linked?: boolean;
}

export interface Exit {
  exitCode: number | undefined;
  signal: string | undefined;
}

/** A command that a tier has started, or could not start: then `child` has no pid and reports the error. */
export interface Contained {
  readonly child: ChildProcess;
  /** What the launchers had to say on standard error; undefined where there is none. */
  readonly complaint: Complaint | undefined;
  /** Processes of the tier's own. */
  readonly keepers: ReadonlySet<number>;
  /** SIGKILL to everything that can be reached at once. Safe after the end. */
  kill(): void;
  /**
   * Call it when the output is closed. Resolves when nothing lives any more of what the tier holds together.
   * @throws a system error when the command could not be executed, NodeFault when the tier failed
   */
  verdict(exit: Exit): Promise<Exit>;
}

export interface Tier {
  readonly name: TierName;
  /** Throws what `spawn` throws: for arguments that no process can be given. */
  start(command: Command): Contained;
}

/** A clean environment, a process group, another user under a root agent, and limits. No isolation. */
export const processTier: Tier = {
  name: 'process',
  start: (command) => new BareProcess(command),
};

class BareProcess implements Contained {
  readonly child: ChildProcess;
  readonly complaint: Complaint | undefined;
  readonly keepers: ReadonlySet<number> = new Set();

  constructor(command: Command) {
    const { directory, startsIn, user, linked } = command;
    let started: Pick<Command, 'argv' | 'environment'> = command;
    if (needsLauncher(command.bounds)) {
      const token = makeToken();
      this.complaint = new Complaint([token]);
      started = launch(command, token);
    }
    const [program, ...args] = started.argv as [string, ...string[]];
    this.child = spawn(program, args, {
      cwd: startsIn ?? directory,
      env: started.environment,
      stdio: standardStreams(linked === true ? 1 : 0),
      detached: true,
      // libuv also clears the supplementary groups when it is given a user.
      ...(user ? { uid: user.uid, gid: user.gid } : {}),
    });
  }

  kill(): void {
    if (this.child.pid !== undefined) sendSignal(-this.child.pid, 'SIGKILL');
  }

  verdict(exit: Exit): Promise<Exit> {
    const failure = this.complaint?.executionFailure(exit.exitCode);
    return failure ? Promise.reject(failure) : Promise.resolve(exit);
  }
}

/** No input, output and error as pipes, and so many channels more. */
export const standardStreams = (more: number): StdioOptions => [
  'ignore',
  'pipe',
  'pipe',
  ...Array.from({ length: more }, () => 'pipe' as const),
];
