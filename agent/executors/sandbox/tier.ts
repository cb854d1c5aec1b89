/**
 * How a command is kept apart from the machine it runs on. An executor prepares a directory and an environment, a tier
 * starts the command in it; the life of the process after that (output, timeouts, grace, strays) is the same in all of
 * them. What a tier adds of its own, launchers and the first process of a namespace, are its keepers: they are neither
 * signalled nor measured as if they were the task's.
 */
import type { Child, DirectoryCare, Starter } from '../child.js';
import type { TaskUser } from '../user.js';
import type { Bounds } from './bounds.js';
import type { Complaint } from './launcher.js';

export type TierName = 'bubblewrap' | 'process';

export interface Command {
  /** The program first. Never empty. */
  argv: readonly string[];
  /** All it finds; nothing of the agent's own is added. */
  environment: Readonly<Record<string, string>>;
  /** The only place it may write to, and where it starts unless `startsIn` names a folder in it. */
  directory: string;
  startsIn?: string;
  /** What whoever starts it does with the directory. */
  directoryCare?: DirectoryCare | undefined;
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
/** A command that a tier had started. */
export interface Contained<C extends Child = Child> {
  readonly child: C;
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
  /** Has it started by `starter`, and throws what that throws. */
  start<C extends Child>(command: Command, starter: Starter<C>): Contained<C>;
}

/** A clean environment, a process group, another user under a root agent, and limits. No isolation. */
export const processTier: Tier = {
  name: 'process',
  start: ({ startsIn, ...command }, starter) =>
    uncontained(starter({ ...command, directory: startsIn ?? command.directory })),
};

/** A process of this tier, whoever has started it. */
export const uncontained = <C extends Child>(child: C): Contained<C> => new BareProcess(child);

const NO_KEEPERS: ReadonlySet<number> = new Set();

class BareProcess<C extends Child> implements Contained<C> {
  readonly keepers: ReadonlySet<number> = NO_KEEPERS;

  constructor(readonly child: C) {}

  get complaint(): Complaint | undefined {
    return this.child.complaint;
  }

  kill(): void {
    this.child.signalGroup('SIGKILL');
  }

  verdict(exit: Exit): Promise<Exit> {
    const failure = this.complaint?.executionFailure(exit.exitCode);
    return failure ? Promise.reject(failure) : Promise.resolve(exit);
  }
}
