/**
 * What happened to a mesh, as somebody saw it from outside: the simulator, or a test with real processes whose tasks
 * write a line when they begin and when they end. One event is one line of JSON. `check` (check.ts) reads a history and
 * says which of the invariants I1 to I8 it breaks.
 *
 * Times are true times in milliseconds, from any origin that the whole history shares. The order of events is the order
 * in which they happened; events of several sources are brought together with `merge`. Leave out what cannot be
 * observed: an invariant is checked as far as its events are there.
 */
export type TerminalStatus = 'COMPLETED' | 'FAILED' | 'CANCELLED';
export type OnDisconnect = 'keep' | 'stop';

interface At {
  atMs: number;
}

interface Task {
  /** The job's id, or anything else that names it throughout the history. */
  job: string;
  index: number;
}

interface Attempt extends Task {
  generation: number;
}

/** The submitter heard that the job is safe: from here on it must not be lost. */
export interface JobAcknowledged extends At {
  kind: 'job-acknowledged';
  job: string;
  tasks: number;
  onDisconnect: OnDisconnect;
  /** How often one of its tasks may fail, and how often it may be lost (I4). */
  failuresMax: number;
  lossesMax: number;
  /** Straggler copies are allowed: two attempts may run at once without any fault. Default false. */
  speculate?: boolean;
}

/** A node takes part, with so many slots; again after each start of its agent. */
export interface NodeStarted extends At {
  kind: 'node-started';
  node: string;
  slots: number;
}

/** The agent's process was killed: nobody there can end its tasks until the next `node-started`. */
export interface NodeKilled extends At {
  kind: 'node-killed';
  node: string;
}

/** The machine, or the agent's process, stands still: it cannot end its tasks by the clock. */
export interface NodeAsleep extends At {
  kind: 'node-asleep';
  node: string;
}

export interface NodeAwake extends At {
  kind: 'node-awake';
  node: string;
}

/** Committed: the task is this node's, in this generation. Adoption under a fresh generation is one, too. */
export interface TaskAssigned extends At, Attempt {
  kind: 'task-assigned';
  node: string;
  epoch: number;
  /** A straggler's copy: the attempt that was current goes on, and either may end the task. */
  copy?: true;
}

/** The work itself began on a node: a process, or a function. Its generation is the one it was started under. */
export interface AttemptBegan extends At, Attempt {
  kind: 'attempt-began';
  node: string;
}

/** Nothing of it runs any more; true also for a process that was killed. */
export interface AttemptEnded extends At, Attempt {
  kind: 'attempt-ended';
  node: string;
}

/** The end of an attempt was committed. */
export interface AttemptSettled extends At, Attempt {
  kind: 'attempt-settled';
  node: string;
  /** The epoch the writer held. */
  epoch: number;
  /** As in coordinator/core/task.ts; `succeeded`, `failed` and `timed-out` are results, the others losses or nothing. */
  outcome: string;
  to: TerminalStatus | 'RETRYING' | 'QUEUED';
  /** How long it waits before it may be assigned again. */
  dueInMs?: number;
}

/** The agent has its result where it outlives its process. */
export interface ResultKept extends At, Attempt {
  kind: 'result-kept';
  node: string;
}

/** An agent said hello: the results it has and that nobody has acknowledged. */
export interface AgentHello extends At {
  kind: 'agent-hello';
  node: string;
  unacknowledged: { job: string; index: number; generation: number }[];
}

/** The coordinator acknowledged these results, or told the agent that nobody wants these attempts any more. */
export interface AgentReleased extends At {
  kind: 'agent-released';
  node: string;
  attempts: { job: string; index: number; generation: number }[];
}

/** A task reached its end, by a result, a cancellation or a decision. */
export interface TaskTerminal extends At, Task {
  kind: 'task-terminal';
  status: TerminalStatus;
}

export interface LeaderElected extends At {
  kind: 'leader-elected';
  epoch: number;
  holder: string;
}

export interface FaultInjected extends At {
  kind: 'fault-injected';
  fault: string;
  /** A node, a coordinator, `database`, or `network`. */
  target: string;
}

export interface FaultHealed extends At {
  kind: 'fault-healed';
  fault: string;
  target: string;
}

/** From here on nothing is broken on purpose any more. */
export interface AllHealed extends At {
  kind: 'all-healed';
}

/** A task's row at the end. */
export interface FinalTask extends At, Task {
  kind: 'final-task';
  status: string;
  generation: number;
  failures: number;
  losses: number;
}

/** A job's row at the end. */
export interface FinalJob extends At {
  kind: 'final-job';
  job: string;
  status: string;
  completed: number;
  failed: number;
  cancelled: number;
}

/** The observer looked for everything that should be over by now: what still runs here has outlived its attempt. */
export interface End extends At {
  kind: 'end';
}

export type HistoryEvent =
  | JobAcknowledged
  | NodeStarted
  | NodeKilled
  | NodeAsleep
  | NodeAwake
  | TaskAssigned
  | AttemptBegan
  | AttemptEnded
  | AttemptSettled
  | ResultKept
  | AgentHello
  | AgentReleased
  | TaskTerminal
  | LeaderElected
  | FaultInjected
  | FaultHealed
  | AllHealed
  | FinalTask
  | FinalJob
  | End;

export type History = readonly HistoryEvent[];

export const toLine = (event: HistoryEvent): string => `${JSON.stringify(event)}\n`;

/** Reads JSON lines. A last line that a killed writer left unfinished is passed by. */
export function fromLines(text: string): HistoryEvent[] {
  const lines = text.split('\n');
  const unfinished = lines.pop();
  const events = lines.filter((line) => line !== '').map((line) => JSON.parse(line) as HistoryEvent);
  try {
    if (unfinished) events.push(JSON.parse(unfinished) as HistoryEvent);
  } catch {
    // The writer died in the middle of it.
  }
  return events;
}

/** One history from several sources that share a clock; events of the same instant keep the order of the arguments. */
export const merge = (...sources: History[]): HistoryEvent[] => sources.flat().sort((a, b) => a.atMs - b.atMs);
