/**
 * Who could take a kind of work next. A group is the unit of planning: work of one kind whose tasks last about equally long
 * (and, rarely, one job that has blocked nodes). Nodes with anything to give are checked once per group; after that each chunk
 * costs a few heap steps.
 *
 * Placing work only ever makes a node less attractive, so a key in a heap can be too low but never too high: a node that
 * surfaces with an outdated key is given its new one, and the rest need not be touched.
 */
import { CPU_MILLIS_DEFAULT, isLarge } from '../room.js';
import { type Board, type Group, type Keys, type NodeState, queueRoomFor, roomFor, shortQueue } from './board.js';
import { ruledOut } from './feasible.js';
import { Heap } from './heap.js';
import { Patience } from './patience.js';
import type { Cost, NodeView, Room, WorkView } from './types.js';

/** One question for a place. */
export interface Asked {
  work: WorkView;
  /** So many tasks at most. */
  upTo: number;
  /** Nodes that are no place for it. */
  avoid: readonly number[];
  /** Whether work of a higher priority waits that could run there: what is queued before it would have to make way. */
  isWanted: (node: NodeState) => boolean;
}

export interface Taken {
  node: NodeState;
  count: number;
  /** They start when the agent hears of them; otherwise they are prefilled. */
  starts: boolean;
}

/** What is known of a node's fitness for the group. */
const UNKNOWN = 0;
const USABLE = 1;

/** The candidate nodes of one group, best first: those with room, then those with room in their queue. */
export class Candidates {
  readonly #room: Heap;
  readonly #queue: Heap;
  readonly #patience: Patience | undefined;
  readonly #keys: Keys;
  /** By position. */
  readonly #fitness: Uint8Array;
  #othersAble: boolean | undefined;
  #reserved = false;
  /** Nodes that were left idle for a faster one, by position. */
  readonly passed = new Set<number>();
  /** Nothing more of the group finds a place in this plan, whichever of its works asks. */
  exhausted = false;
  /** Versions of the nodes when their keys were made, by position. */
  readonly #versions: Uint32Array;

  constructor(
    readonly group: Group,
    readonly board: Board,
  ) {
    const { meter, settings, strategy, views } = board;
    this.#room = new Heap(meter);
    this.#queue = new Heap(meter);
    this.#versions = new Uint32Array(views.length);
    this.#fitness = new Uint8Array(views.length);
    if (strategy.patient) this.#patience = new Patience(board, (node) => this.#isUsable(node));
    this.#keys = board.keysFor(group.taskMs);
    board.eachOpen((node) => {
      meter.operations++;
      const heap =
        roomFor(node.free, node.reserve, group.cost) > 0
          ? this.#room
          : queueRoomFor(node, group, settings) > 0
            ? this.#queue
            : undefined;
      if (!heap || !this.#isUsable(node)) return;
      this.#versions[node.index] = node.version;
      heap.add(node.index, this.#keys.of(node));
    });
    this.#room.order();
    this.#queue.order();
  }

  isFeasible(node: NodeState): boolean {
    return this.#isUsable(node);
  }

  /** The nodes to avoid for a task that failed on `failed`: none when no other feasible node exists. */
  avoidable(failed: readonly number[]): readonly number[] {
    if (failed.length === 0) return failed;
    const { board } = this;
    for (let index = 0; index < board.views.length; index++) {
      const node = board.state(index);
      if (!failed.includes(node.view.seq) && this.#isUsable(node)) return failed;
    }
    return [];
  }

  /** Whether it had better wait for a faster node than be given to this one. What must avoid nodes cannot count on them. */
  waits(node: NodeState, starts: boolean, work: WorkView, avoid: readonly number[]): boolean {
    return avoid.length === 0 && this.#patience?.waits(node, starts, work) === true;
  }

  /** Takes places for up to `upTo` tasks on the best node that is not to be avoided. Undefined: there is none now. */
  take(asked: Asked): Taken | undefined {
    const taken = this.#takeFrom(this.#room, true, asked) ?? this.#takeFrom(this.#queue, false, asked);
    this.exhausted = !taken && this.#room.size === 0 && this.#queue.size === 0 && !this.mayReserve;
    return taken;
  }

  /** A large task of it may yet be given a place that others cannot take. */
  get mayReserve(): boolean {
    const { cpuMillis, memoryBytes } = this.group.cost;
    return !this.#reserved && (cpuMillis > CPU_MILLIS_DEFAULT || memoryBytes > this.board.memoryShareMin);
  }

  /**
   * A place for one large task that fits no free room, beyond the usual depth: in the queue of the feasible node nearest to
   * having room, where nothing smaller will overtake it. At most one in a plan; undefined when the task is not large, or each such
   * node waits for a large one already.
   */
  reserve({ avoid, isWanted }: Asked): Taken | undefined {
    if (!this.mayReserve) return undefined;
    this.#reserved = true;
    const { board, group } = this;
    let best: NodeState | undefined;
    let least = Infinity;
    for (let index = 0; index < board.views.length; index++) {
      board.meter.operations++;
      const missing = this.#missing(index);
      if (missing >= least) continue;
      const node = board.state(index);
      if (avoid.includes(node.view.seq) || !this.#isUsable(node)) continue;
      if (isWanted(node) && node.queued >= shortQueue(node, board.settings)) continue;
      least = missing;
      best = node;
    }
    if (!best) return undefined;
    board.reserve(best, group.cost);
    return { node: best, count: 1, starts: false };
  }

  /** How far from having room a node is where the task may wait; Infinity where it may not. */
  #missing(index: number): number {
    const { cost } = this.group;
    const { total, onTrial } = this.board.views[index] as NodeView;
    const node = this.board.standing(index);
    if (onTrial || node.reserve || !isLarge(cost, total) || node.queued >= this.board.settings.prefillMax)
      return Infinity;
    if (!lacksOnlyCpuOrMemory(node.free, cost)) return Infinity;
    return (
      Math.max(0, cost.cpuMillis - node.free.cpuMillis) / total.cpuMillis +
      Math.max(0, cost.memoryBytes - node.free.memoryBytes) / Math.max(1, total.memoryBytes)
    );
  }

  /** Feasible, and not blocked unless nobody else could run it: then the job goes on there, rather than wait for ever. */
  #isUsable(node: NodeState): boolean {
    const known = this.#fitness[node.index];
    if (known !== UNKNOWN) return known === USABLE;
    const { kind, cost, blocked } = this.group;
    const usable =
      !ruledOut(kind, cost, node.view) &&
      (blocked.size === 0 || !blocked.has(node.view.seq) || !(this.#othersAble ??= this.#isAnyOtherAble()));
    this.#fitness[node.index] = usable ? USABLE : 2;
    return usable;
  }

  #isAnyOtherAble(): boolean {
    const { kind, cost, blocked } = this.group;
    return this.board.views.some((view) => !blocked.has(view.seq) && !ruledOut(kind, cost, view));
  }

  #queueRoom(node: NodeState, { isWanted }: Asked): number {
    const { group, board } = this;
    const room = queueRoomFor(node, group, board.settings);
    return room > 0 && isWanted(node) ? Math.min(room, shortQueue(node, board.settings) - node.queued) : room;
  }

  #takeFrom(heap: Heap, starts: boolean, asked: Asked): Taken | undefined {
    const { board, group } = this;
    const { work, upTo, avoid } = asked;
    let aside: NodeState[] | undefined;
    let taken: Taken | undefined;
    while (!taken) {
      const node = this.#first(heap);
      if (!node) break;
      const room = starts ? roomFor(node.free, node.reserve, group.cost) : this.#queueRoom(node, asked);
      if (room <= 0) {
        heap.pop();
        if (starts && queueRoomFor(node, group, board.settings) > 0) this.#push(this.#queue, node);
      } else if (this.waits(node, starts, work, avoid)) {
        heap.pop();
        this.passed.add(node.index);
      } else if (avoid.length > 0 && avoid.includes(node.view.seq)) {
        heap.pop();
        (aside ??= []).push(node);
      } else {
        const even = Math.ceil(upTo / heap.size);
        const count = Math.max(1, Math.min(room, upTo, even, board.strategy.chunk(room)));
        board.place(node, group, count, starts);
        this.#versions[node.index] = node.version;
        heap.rekey(this.#keys.of(node));
        taken = { node, count, starts };
      }
    }
    if (aside) for (const node of aside) this.#push(heap, node);
    return taken;
  }

  #push(heap: Heap, node: NodeState): void {
    this.#versions[node.index] = node.version;
    heap.push(node.index, this.#keys.of(node));
  }

  /** The best node by an up-to-date key; it stays in the heap. */
  #first(heap: Heap): NodeState | undefined {
    const { board } = this;
    for (;;) {
      const index = heap.peek();
      if (index === undefined) return undefined;
      const node = board.state(index);
      if (this.#versions[index] === node.version) return node;
      this.#versions[index] = node.version;
      heap.rekey(this.#keys.of(node));
    }
  }
}

/** A GPU or a licence is released whole by the task that holds it; only CPU and memory come free in small pieces. */
function lacksOnlyCpuOrMemory(free: Room, cost: Cost): boolean {
  return free.gpus >= cost.gpus && cost.custom.every(([name, amount]) => (free.custom.get(name) ?? 0) >= amount);
}
