/**
 * The nodes while one plan is made. What a plan changes of a node is kept beside the node's view, and made when the plan first
 * touches it: in a mesh at work nearly all nodes are full, their queues too, and those are passed over once and for all.
 */
import { costOf, fitCount, isLarge, Space } from '../room.js';
import type { Meter } from './heap.js';
import { finishedPerDelay, prefillDepth, prefillDepthMax, type PrefillInput } from './prefill.js';
import type { Standing } from './rank.js';
import type { Strategy } from './strategy.js';
import type { Cost, Kind, NodeView, PlanSettings, Room, WorkView } from './types.js';

const NOTHING_BLOCKED: ReadonlySet<number> = new Set();
const TASK_MS_MIN = 0.001;

/** A node with what this plan has placed on it so far. */
export class NodeState {
  readonly free: Space;
  queued: number;
  load: number;
  reserve: Cost | undefined;
  turnoverPerMs: number | undefined;
  /** Rises with every placement; tells outdated keys. */
  version = 1;
  lastTurn = 0;

  constructor(
    readonly index: number,
    readonly view: NodeView,
  ) {
    this.free = new Space(view.free);
    this.queued = view.queued;
    this.load = view.load;
    this.reserve = view.reserve;
    this.turnoverPerMs = view.turnoverPerMs;
  }

  /** How long a task takes here relative to where tasks usually run. */
  get pace(): number {
    return this.view.pace ?? 1;
  }
}

/** Work that is placed alike. */
export interface Group {
  kind: Kind;
  cost: Cost;
  /** At the usual pace. */
  taskMs: number | undefined;
  blocked: ReadonlySet<number>;
}

const costs = new WeakMap<Kind, Cost>();

export function costOfKind(kind: Kind): Cost {
  let cost = costs.get(kind);
  if (!cost) costs.set(kind, (cost = costOf(kind.resources)));
  return cost;
}

/** Task times within a factor of two count as equal: the power of two nearest to them, as its exponent. */
const bucketOf = (taskMs: number | undefined): number | undefined =>
  taskMs === undefined ? undefined : Math.round(Math.log2(Math.max(taskMs, TASK_MS_MIN)));

export function groupOf({ kind, taskMs, blockedNodes }: WorkView): Group {
  const bucket = bucketOf(taskMs);
  const blocked = blockedNodes.size > 0 ? blockedNodes : NOTHING_BLOCKED;
  return { kind, cost: costOfKind(kind), taskMs: bucket === undefined ? undefined : 2 ** bucket, blocked };
}

/** Beyond every bucket: tasks of a microsecond to years. */
const BUCKETS = 128;

/** Equal for work of one group; a job with blocked nodes is a group of its own. */
export function groupKey({ kind, taskMs, blockedNodes, job }: WorkView): number | string {
  const key = kind.id * BUCKETS + (bucketOf(taskMs) ?? 64) + 32;
  return blockedNodes.size > 0 ? `${key}/${job}` : key;
}

const prefillInput = (node: NodeState, taskMs: number | undefined): PrefillInput => ({
  slots: node.view.total.slots,
  rttMs: node.view.rttMs,
  taskMs: taskMs === undefined ? undefined : taskMs * node.pace,
  turnoverPerMs: node.turnoverPerMs,
});

const finishedThere = (node: NodeState, taskMs: number | undefined, settings: PlanSettings): number =>
  finishedPerDelay(prefillInput(node, taskMs), settings) ?? 1;

export function standingOf(node: NodeState, taskMs: number | undefined, settings: PlanSettings): Standing {
  return {
    rttMs: node.view.rttMs,
    load: node.load,
    queued: node.queued,
    finishedPerDelay: finishedThere(node, taskMs, settings),
    reliability: node.view.reliability,
    finished: node.view.finished,
    taskMs,
    pace: node.pace,
  };
}

/** How many can start at once: what is free less what a large task waits for. */
export function roomFor(free: Room, reserve: Cost | undefined, cost: Cost): number {
  if (!reserve) return fitCount(free, cost);
  const open = new Space(free);
  open.take(reserve);
  return fitCount(open, cost);
}

/** How deep the node's queue may be with such tasks. */
export const depthFor = (node: NodeState, group: Group, settings: PlanSettings): number =>
  prefillDepth(prefillInput(node, group.taskMs), settings);

/** How many more the node's queue takes. Nothing queues behind a larger task: it would overtake it. */
export function queueRoomFor(node: NodeState, group: Group, settings: PlanSettings): number {
  const { reserve } = node;
  if (node.view.onTrial) return 0;
  if (reserve && (group.cost.cpuMillis < reserve.cpuMillis || group.cost.memoryBytes < reserve.memoryBytes)) return 0;
  return Math.max(0, depthFor(node, group, settings) - node.queued);
}

/** Tasks of a work that wait. */
export const waitingOf = ({ fresh, returned }: WorkView): number => fresh + returned.length;

/** A queue no longer than what the node works off in so many pipeline delays is not worth asking back. */
const PATIENCE = 2;

/** Tasks the node works off while a retraction travels; 0 while nothing is known about its speed. */
export const workedOff = ({ view }: NodeState, { pipelineDelayMs }: PlanSettings): number =>
  (view.turnoverPerMs ?? 0) * (pipelineDelayMs + view.rttMs);

/** The longest queue there that is left alone, whatever would better run instead. */
export const shortQueue = (node: NodeState, settings: PlanSettings): number =>
  Math.floor(PATIENCE * workedOff(node, settings));

/** Keys of nodes for tasks that last about equally long, whatever else they ask: what differs is who may run them. */
export class Keys {
  readonly #keys: Float64Array;
  readonly #versions: Uint32Array;

  constructor(
    nodes: number,
    private readonly taskMs: number | undefined,
    private readonly board: Board,
  ) {
    this.#keys = new Float64Array(nodes);
    this.#versions = new Uint32Array(nodes);
  }

  of(node: NodeState): number {
    const { index, version } = node;
    if (this.#versions[index] === version) return this.#keys[index] as number;
    const { settings, strategy } = this.board;
    const { view } = node;
    const pace = node.pace;
    const key = strategy.key({
      rttMs: view.rttMs,
      load: node.load,
      queued: node.queued,
      finishedPerDelay: node.queued > 0 ? finishedThere(node, this.taskMs, settings) : 1,
      reliability: view.reliability,
      finished: view.finished,
      taskMs: this.taskMs,
      pace,
      index,
      lastTurn: node.lastTurn,
    });
    this.#keys[index] = key;
    this.#versions[index] = version;
    return key;
  }
}

export class Board {
  /** Positions of the nodes that may take something yet. Shrinks. */
  readonly #open: number[] = [];
  readonly #shut: Uint8Array;
  readonly #states: (NodeState | undefined)[];
  readonly #keys = new Map<number | undefined, Keys>();
  /** Nodes that may take something yet. */
  openCount = 0;
  /** Tasks that wait and were not placed. */
  waiting = 0;
  /** Of the nodes that may run anything: the lowest pace, and the tasks per millisecond that their busy slots finish. */
  readonly paceMin: number = Infinity;
  readonly turnoverPerMs: number = 0;
  /** The least memory that is one slot's share of a node: nothing that asks for less is large anywhere. */
  readonly memoryShareMin: number = Infinity;
  /** Chunks placed so far. */
  turn = 0;

  constructor(
    readonly views: readonly NodeView[],
    readonly settings: PlanSettings,
    readonly strategy: Strategy,
    readonly meter: Meter,
    /** Of all that waits the task times are known. */
    readonly allKnown: boolean,
  ) {
    this.#states = new Array<undefined>(views.length);
    this.#shut = new Uint8Array(views.length);
    for (let index = 0; index < views.length; index++) {
      const view = views[index] as NodeView;
      if (!isWorking(view)) {
        this.#shut[index] = 1;
        continue;
      }
      this.paceMin = Math.min(this.paceMin, view.pace ?? 1);
      this.turnoverPerMs += view.turnoverPerMs ?? 0;
      this.memoryShareMin = Math.min(this.memoryShareMin, view.total.memoryBytes / view.total.slots);
      if (this.#isFull(view, view)) this.#shut[index] = 1;
      else this.#open.push(index);
    }
    this.openCount = this.#open.length;
    meter.operations += views.length;
  }

  /** A node with what was placed on it. */
  state(index: number): NodeState {
    return (this.#states[index] ??= new NodeState(index, this.views[index] as NodeView));
  }

  /** How a node stands now, touched by the plan or not. */
  standing(index: number): Pick<NodeView, 'free' | 'queued' | 'reserve' | 'turnoverPerMs'> {
    return this.#states[index] ?? (this.views[index] as NodeView);
  }

  /** Calls for each node that may take something yet. */
  eachOpen(see: (node: NodeState) => void): void {
    for (const index of this.#open) if (this.#shut[index] === 0) see(this.state(index));
  }

  keysFor(taskMs: number | undefined): Keys {
    let keys = this.#keys.get(taskMs);
    if (!keys) this.#keys.set(taskMs, (keys = new Keys(this.views.length, taskMs, this)));
    return keys;
  }

  /** Takes it up: in free room, or in the queue. */
  place(node: NodeState, { cost, taskMs }: Group, count: number, starts: boolean): void {
    const { total } = node.view;
    if (starts) {
      const idle = node.free.slots >= total.slots;
      node.free.take(cost, count);
      node.load = Math.min(1, node.load + (count * cost.cpuMillis) / total.cpuMillis);
      if (taskMs !== undefined && (idle || node.turnoverPerMs !== undefined))
        node.turnoverPerMs = (node.turnoverPerMs ?? 0) + count / (taskMs * node.pace);
    } else {
      node.queued += count;
      if (isLarge(cost, total)) node.reserve ??= cost;
    }
    this.waiting -= count;
    this.#touched(node);
    node.lastTurn = ++this.turn;
  }

  /** A large task waits there, beyond the usual depth. */
  reserve(node: NodeState, cost: Cost): void {
    node.queued++;
    node.reserve = cost;
    this.waiting--;
    this.#touched(node);
  }

  /** As the plan left it: what only planning needs is given up. */
  settled(): this {
    this.#keys.clear();
    return this;
  }

  #touched(node: NodeState): void {
    node.version++;
    if (this.#shut[node.index] === 0 && this.#isFull(node, node.view)) {
      this.#shut[node.index] = 1;
      this.openCount--;
    }
  }

  /** Nothing fits any more, and the queue is as long as it may be, whatever the tasks. */
  #isFull(
    { free, queued, turnoverPerMs }: Pick<NodeView, 'free' | 'queued' | 'turnoverPerMs'>,
    { total, rttMs }: NodeView,
  ): boolean {
    if (free.slots >= 1) return false;
    return queued >= prefillDepthMax({ slots: total.slots, rttMs, turnoverPerMs }, this.settings, this.allKnown);
  }
}

/** Whatever the work asks, nothing goes to the others: see ruledOut. */
const isWorking = (view: NodeView): boolean =>
  view.state === 'HEALTHY' && !view.draining && !view.revoked && !view.barred;
