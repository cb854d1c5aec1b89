/**
 * The nodes while one plan is made, and who of them could take a kind of work next. A group is the unit of planning: work
 * of one kind whose tasks last about equally long (and, rarely, one job that has blocked nodes). Nodes are checked and
 * scored once per group; after that each chunk costs a few heap steps.
 *
 * Placing work only ever makes a node less attractive, so a key in a heap can be too low but never too high: a node that
 * surfaces with an outdated key is scored again and put back, and the rest need not be touched.
 */
import { costOf, fitCount, isLarge, Space } from '../room.js';
import { ruledOut } from './feasible.js';
import { Heap, type Meter } from './heap.js';
import { finishedPerDelay, prefillDepth, type PrefillInput } from './prefill.js';
import type { Standing } from './rank.js';
import type { Candidate, Strategy } from './strategy.js';
import type { Cost, Kind, NodeView, PlanSettings, Room, WorkView } from './types.js';

const NOTHING_BLOCKED: ReadonlySet<number> = new Set();

/** A node with what this plan has placed on it so far. */
export interface NodeState {
  index: number;
  view: NodeView;
  free: Space;
  queued: number;
  load: number;
  reserve: Cost | undefined;
  turnoverPerMs: number | undefined;
  /** Rises with every placement; tells outdated keys. */
  version: number;
  lastTurn: number;
}

export function nodeState(view: NodeView, index: number): NodeState {
  const { free, queued, load, reserve, turnoverPerMs } = view;
  return { index, view, free: new Space(free), queued, load, reserve, turnoverPerMs, version: 0, lastTurn: 0 };
}

/** Work that is placed alike. */
export interface Group {
  kind: Kind;
  cost: Cost;
  taskMs: number | undefined;
  blocked: ReadonlySet<number>;
}

/** Task times within a factor of two count as equal: the group's is the power of two nearest to them. */
export function groupOf(work: WorkView): Group & { key: string } {
  const bucket = work.taskMs === undefined ? undefined : Math.round(Math.log2(Math.max(work.taskMs, 0.001)));
  const blocked = work.blockedNodes.size > 0 ? work.blockedNodes : NOTHING_BLOCKED;
  return {
    key: `${work.kind.id}/${bucket ?? '?'}${blocked.size > 0 ? `/${work.job}` : ''}`,
    kind: work.kind,
    cost: costOf(work.kind.resources),
    taskMs: bucket === undefined ? undefined : 2 ** bucket,
    blocked,
  };
}

const prefillInput = (node: NodeState, group: Group): PrefillInput => ({
  slots: node.view.total.slots,
  rttMs: node.view.rttMs,
  taskMs: group.taskMs,
  turnoverPerMs: node.turnoverPerMs,
});

export function standingOf(node: NodeState, group: Group, settings: PlanSettings): Standing {
  return {
    rttMs: node.view.rttMs,
    load: node.load,
    queued: node.queued,
    finishedPerDelay: finishedPerDelay(prefillInput(node, group), settings.pipelineDelayMs) ?? 1,
    reliability: node.view.reliability,
    finished: node.view.finished,
    taskMs: group.taskMs,
  };
}

/** How many can start at once: what is free less what a large task waits for. */
export function roomFor(free: Room, reserve: Cost | undefined, cost: Cost): number {
  if (!reserve) return fitCount(free, cost);
  const open = new Space(free);
  open.take(reserve);
  return fitCount(open, cost);
}

/** How many more the node's queue takes. Nothing queues behind a larger task: it would overtake it. */
export function queueRoomFor(node: NodeState, group: Group, settings: PlanSettings): number {
  const { reserve } = node;
  if (node.view.onTrial) return 0;
  if (reserve && (group.cost.cpuMillis < reserve.cpuMillis || group.cost.memoryBytes < reserve.memoryBytes)) return 0;
  return Math.max(0, prefillDepth(prefillInput(node, group), settings) - node.queued);
}

/** What all groups of one plan share. */
export interface PlanContext {
  nodes: readonly NodeState[];
  settings: PlanSettings;
  strategy: Strategy;
  meter: Meter;
  /** Chunks placed so far. */
  turn: number;
}

export interface Taken {
  node: NodeState;
  count: number;
  /** They start when the agent hears of them; otherwise they are prefilled. */
  starts: boolean;
}

/**
 * Blocked nodes are left out, unless no other node could run it: then the job goes on there, and its tasks end within the
 * bounds on their failures and losses, rather than wait for ever.
 */
export function unblocked(able: readonly NodeState[], blocked: ReadonlySet<number>): readonly NodeState[] {
  if (blocked.size === 0) return able;
  const open = able.filter((node) => !blocked.has(node.view.seq));
  return open.length > 0 ? open : able;
}

/** The candidate nodes of one group, best first: those with room, then those with room in their queue. */
export class Candidates {
  /** Feasible nodes, by the store's number. */
  readonly #feasible = new Set<number>();
  readonly #room: Heap;
  readonly #queue: Heap;
  #reserved = false;
  /** Version of the node when its key was made. */
  readonly #versions: Int32Array;

  constructor(
    readonly group: Group,
    readonly context: PlanContext,
  ) {
    const { nodes, settings, meter } = context;
    this.#room = new Heap(meter);
    this.#queue = new Heap(meter);
    this.#versions = new Int32Array(nodes.length);
    const able = nodes.filter((node) => {
      meter.operations++;
      return !ruledOut(group.kind, group.cost, node.view);
    });
    for (const node of unblocked(able, group.blocked)) {
      this.#feasible.add(node.view.seq);
      if (roomFor(node.free, node.reserve, group.cost) > 0) this.#push(this.#room, node);
      else if (queueRoomFor(node, group, settings) > 0) this.#push(this.#queue, node);
    }
  }

  /** Number of nodes that could run it, were they free. */
  get feasible(): number {
    return this.#feasible.size;
  }

  isFeasible(seq: number): boolean {
    return this.#feasible.has(seq);
  }

  /** The nodes to avoid for a task that failed on `failed`: none when no other feasible node exists. */
  avoidable(failed: readonly number[]): readonly number[] {
    if (failed.length === 0) return failed;
    const hit = new Set(failed.filter((seq) => this.#feasible.has(seq)));
    return hit.size < this.#feasible.size ? [...hit] : [];
  }

  /** Takes places for up to `upTo` tasks on the best node that is not to be avoided. Undefined: there is none now. */
  take(upTo: number, avoid: readonly number[]): Taken | undefined {
    return this.#takeFrom(this.#room, upTo, avoid, true) ?? this.#takeFrom(this.#queue, upTo, avoid, false);
  }

  /**
   * A place for one large task that fits no free room, beyond the usual depth: in the queue of the feasible node nearest to
   * having room, where nothing smaller will overtake it. At most one in a plan; undefined when the task is not large, or each such
   * node waits for a large one already.
   */
  reserve(avoid: readonly number[]): Taken | undefined {
    const { cost } = this.group;
    const { settings } = this.context;
    if (this.#reserved) return undefined;
    this.#reserved = true;
    let best: NodeState | undefined;
    let least = Infinity;
    for (const node of this.context.nodes) {
      this.context.meter.operations++;
      const { total } = node.view;
      if (!this.#feasible.has(node.view.seq) || avoid.includes(node.view.seq)) continue;
      if (node.view.onTrial || node.reserve || !isLarge(cost, total) || node.queued >= settings.prefillMax) continue;
      if (!lacksOnlyCpuOrMemory(node.free, cost)) continue;
      const missing =
        Math.max(0, cost.cpuMillis - node.free.cpuMillis) / total.cpuMillis +
        Math.max(0, cost.memoryBytes - node.free.memoryBytes) / Math.max(1, total.memoryBytes);
      if (missing >= least) continue;
      least = missing;
      best = node;
    }
    if (!best) return undefined;
    best.queued++;
    best.reserve = cost;
    best.version++;
    return { node: best, count: 1, starts: false };
  }

  #takeFrom(heap: Heap, upTo: number, avoid: readonly number[], starts: boolean): Taken | undefined {
    const aside: NodeState[] = [];
    let taken: Taken | undefined;
    while (!taken) {
      const node = this.#pop(heap);
      if (!node) break;
      const room = starts
        ? roomFor(node.free, node.reserve, this.group.cost)
        : queueRoomFor(node, this.group, this.context.settings);
      if (room <= 0) {
        if (starts && queueRoomFor(node, this.group, this.context.settings) > 0) this.#push(this.#queue, node);
      } else if (avoid.includes(node.view.seq)) {
        aside.push(node);
      } else {
        const even = Math.ceil(upTo / (heap.size + 1));
        const count = Math.max(1, Math.min(room, upTo, even, this.context.strategy.chunk(room)));
        this.#place(node, count, starts);
        this.#push(heap, node);
        taken = { node, count, starts };
      }
    }
    for (const node of aside) this.#push(heap, node);
    return taken;
  }

  #place(node: NodeState, count: number, starts: boolean): void {
    const { cost, taskMs } = this.group;
    const { total } = node.view;
    if (starts) {
      const idle = node.free.slots >= total.slots;
      node.free.take(cost, count);
      node.load = Math.min(1, node.load + (count * cost.cpuMillis) / total.cpuMillis);
      if (taskMs !== undefined && (idle || node.turnoverPerMs !== undefined))
        node.turnoverPerMs = (node.turnoverPerMs ?? 0) + count / taskMs;
    } else {
      node.queued += count;
      if (isLarge(cost, total)) node.reserve ??= cost;
    }
    node.version++;
    node.lastTurn = ++this.context.turn;
  }

  #push(heap: Heap, node: NodeState): void {
    const candidate: Candidate = {
      index: node.index,
      standing: standingOf(node, this.group, this.context.settings),
      lastTurn: node.lastTurn,
    };
    this.#versions[node.index] = node.version;
    heap.push(node.index, this.context.strategy.key(candidate));
  }

  /** The best node by an up-to-date key. */
  #pop(heap: Heap): NodeState | undefined {
    for (;;) {
      const index = heap.pop();
      if (index === undefined) return undefined;
      const node = this.context.nodes[index] as NodeState;
      if (this.#versions[index] === node.version) return node;
      this.#push(heap, node);
    }
  }
}

/** A GPU or a licence is released whole by the task that holds it; only CPU and memory come free in small pieces. */
function lacksOnlyCpuOrMemory(free: Space, cost: Cost): boolean {
  return free.gpus >= cost.gpus && cost.custom.every(([name, amount]) => (free.custom.get(name) ?? 0) >= amount);
}
