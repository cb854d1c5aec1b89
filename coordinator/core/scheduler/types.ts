import type { Selector } from '../../../common/selector.js';
import type { Allowance } from '../quotas.js';
import type { Resources } from '../../../proto/gen/mesh/v1/common.js';

/** What a request asks of a node, interned: jobs that ask the same share one Kind, and the planner looks at kinds. */
export interface Kind {
  /** Small integer, unique while the coordinator runs. */
  id: number;
  executor: 'process' | 'function';
  resources: Resources;
  selector: Selector;
  /** Needs an agent that kills the attempt by itself when it loses the coordinator (`--on-disconnect stop`). */
  fenced?: boolean;
  /** How it must be kept apart; undefined: by the strongest tier of the node. */
  sandbox?: 'bubblewrap' | 'process' | undefined;
  /** Bounds what its attempts may use, which older agents cannot. */
  limited?: boolean;
  /** Its attempts are given secrets, some of them as files. */
  secrets?: 'variables' | 'files' | undefined;
}

/** Resources as numbers to subtract. `slots` bounds how many tasks run whatever they ask. */
export interface Room {
  slots: number;
  cpuMillis: number;
  memoryBytes: number;
  gpus: number;
  custom: ReadonlyMap<string, number>;
}

/** What one task takes from a Room, defaults filled in. Every task takes one slot beside it. */
export interface Cost {
  /** At least 1; a task that asks for nothing takes one CPU. */
  cpuMillis: number;
  memoryBytes: number;
  gpus: number;
  custom: readonly (readonly [name: string, amount: number])[];
}

/** A node as the planner sees it at one instant. */
export interface NodeView {
  /** The node's number in the store. */
  seq: number;
  name: string;
  labels: ReadonlyMap<string, string>;
  executors: ReadonlySet<string>;
  state: 'HEALTHY' | 'SUSPECT' | 'OFFLINE';
  draining: boolean;
  revoked: boolean;
  /** What the whole node has. */
  total: Room;
  /** What is not held by attempts that run, or will as soon as the agent hears of them. Prefilled tasks hold none. */
  free: Room;
  /** Assigned there beyond what fits: the prefill queue. */
  queued: number;
  /** Busy share of the whole machine at the last heartbeat, 0 to 1, with own placements since then added. */
  load: number;
  rttMs: number;
  /** Exponentially weighted share of attempts that the node did not spoil, 0 to 1. */
  reliability: number;
  /** Attempts ever finished here; small numbers earn the newcomer's boost. */
  finished: number;
  /** What a large attempt asks that waits there for room; nothing smaller may overtake it. See ledger.ts. */
  reserve?: Cost | undefined;
  /** Its agent speaks a protocol in which it can be told to stop attempts by itself. */
  fences?: boolean;
  /** Tiers that its tasks can run in, the strongest first. */
  sandboxes?: readonly string[];
  /** Its agent speaks a protocol in which it can be told what attempts may use. */
  limits?: boolean;
  /** Why its attempts can be given no secrets, or none as files; undefined when they can. */
  noSecrets?: string | undefined;
  noSecretFiles?: string | undefined;
  /** Why it gets no work at all for now; undefined when it may. */
  barred?: string | undefined;
  /** On probation: what starts at once is all it gets, nothing waits there. */
  onTrial?: boolean;
  /** Tasks per millisecond that the busy slots finish, from learned task times; undefined when nothing is known. */
  turnoverPerMs?: number | undefined;
  /** How long a task takes there relative to where tasks usually run; 2: twice as long. Undefined: as usual. See pace.ts. */
  pace?: number | undefined;
}

/** A task that came back: retried, retracted or lost. */
export interface ReturnedTask {
  index: number;
  /** Nodes it failed on; avoided while another feasible node exists. */
  failedNodes: readonly number[];
}

/** The work of one job: what waits, or, with nothing waiting, what is prefilled and might be moved. */
export interface WorkView {
  job: number;
  kind: Kind;
  priority: number;
  submitter: string;
  /** Whose quotas it counts for. */
  namespace?: string;
  /** Position in the order of arrival. */
  arrival: number;
  /** Rows that exist and were never assigned. */
  fresh: number;
  /** Due now, a bounded page of them. */
  returned: readonly ReturnedTask[];
  /** Nodes this job does not use while another one could run it. */
  blockedNodes: ReadonlySet<number>;
  /** Learned running time of its tasks at the usual pace; undefined before the first has ended. */
  taskMs: number | undefined;
  /** How long ago it was last assigned anything; undefined: just now. Bounds how long it waits for a faster node. */
  unassignedForMs?: number | undefined;
}

export interface Snapshot {
  nodes: readonly NodeView[];
  /** Every job with waiting work or with prefilled tasks. */
  work: readonly WorkView[];
  /** Tasks each submitter has assigned or running now. */
  heldBySubmitter: ReadonlyMap<string, number>;
  /** What namespaces with quotas on running work may still be assigned; others may have all there is. */
  allowances?: ReadonlyMap<string, Allowance>;
  /** Tasks assigned and not started that could be moved, per node and job; the planner asks for some back. */
  prefilled: readonly Prefilled[];
}

/** Tasks of one job that wait on a node: those that failed nowhere together, each other one by itself. */
export interface Prefilled {
  node: number;
  job: number;
  count: number;
  /** Of one that failed on these nodes. */
  index?: number;
  failedNodes?: readonly number[];
}

/** Ask the node to give back up to `count` unstarted tasks of the job, or the one with this index, which failed somewhere. */
export interface Retraction {
  node: number;
  job: number;
  count: number;
  index?: number;
}

export interface Assignment {
  job: number;
  node: number;
  /** So many of the job's fresh tasks, from its cursor. */
  fresh: number;
  /** These returned tasks. */
  returned: number[];
}

/** Why a node was not taken for a kind, or what it scored; what `mesh why` shows. */
export interface NodeReason {
  node: number;
  feasible: boolean;
  /** The first thing that ruled it out, or how it stands: "chosen", "full: 0 of 8 slots free". */
  reason: string;
  score: number | undefined;
  /** What each term added to the score, its weight included; they sum up to it. */
  terms: Readonly<Record<string, number>>;
}

/** The reasons of one plan, worked out when somebody asks. */
export interface Reasons {
  /** Kinds that had work in the snapshot. */
  kinds(): number[];
  /** How each node stood for a kind; for one job of it when given, whose task time and blocked nodes then count. */
  get(kind: number, job?: number): NodeReason[] | undefined;
}

export interface Plan {
  assignments: Assignment[];
  retractions: Retraction[];
  /** Reasons per kind id, for kinds that had work in this snapshot. */
  reasons: Reasons;
  /** When it was made, on the caller's clock. */
  atMs: number;
  /** Nodes looked at and heap steps taken: what the plan cost, independent of the machine. */
  operations: number;
}

/** Weights of the score's terms. Each term is in [0, 1]; lower scores are better. */
export interface Coefficients {
  /** α: a round trip, relative to the job's task time. Higher keeps short tasks near. */
  rtt: number;
  /** β: busy share of the machine. Higher spreads work and spares machines that people sit at. */
  load: number;
  /** γ: queue, relative to what the node finishes in one pipeline delay. Higher evens queues out. */
  queue: number;
  /** δ: 1 − reliability. Higher avoids nodes that spoil attempts. */
  reliability: number;
  /** ε: learned speed. Higher prefers fast machines where there is a choice. */
  speed: number;
}

export interface PlanSettings {
  strategy: 'score' | 'round-robin' | 'random';
  coefficients: Coefficients;
  /** Time from a slot falling free to its next task arriving; sizes the prefill. */
  pipelineDelayMs: number;
  /** How much later nodes tell of ends, because they gather those of short commands; 0 when absent. */
  heldMs?: number;
  /** The most an agent may hold beyond its slots. */
  prefillMax: number;
  /** The most tasks one plan assigns; the rest waits for the next. */
  assignmentsMax: number;
  /** Shares of submitters relative to each other; 1 when absent. Positive. */
  submitterWeights?: ReadonlyMap<string, number>;
}
