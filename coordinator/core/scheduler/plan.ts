/**
 * Decides what goes where. Pure: the same snapshot, settings, time and random draws give the same plan.
 *
 * Work is offered in fair order (fair.ts) and placed in chunks on the best candidates of its group (candidates.ts), first
 * where it can start, then in the queues that bridge the pipeline delay (prefill.ts). Returned tasks of a job go before its
 * fresh ones. Nothing is queued where work of a higher priority waits that could run there, beyond what is worked off at once:
 * it would have to make way. Then prefilled tasks that would better be elsewhere are asked back (retract.ts).
 *
 * Fresh work is a number, so nothing depends on how much of it waits. The cost is a short look at each node and at each job
 * with work, a longer one at each node that may take something for every group with work, and O(log nodes) for every chunk.
 * As soon as no node, or no work, is left that could go on, the rest of the jobs is not looked at.
 *
 * It fails soft: a snapshot that is out of date makes assignments that the store's guards refuse, or that wait on the agent.
 */
import { type Allowance, allowedTo } from '../quotas.js';
import { NOWHERE } from '../task.js';
import { Board, costOfKind, type Group, groupKey, groupOf, type NodeState, waitingOf } from './board.js';
import { type Asked, Candidates, type Taken } from './candidates.js';
import { FairOrder, type Turn } from './fair.js';
import { COEFFICIENTS_DEFAULT } from './rank.js';
import { PlanReasons, type Shares } from './reasons.js';
import { retractions } from './retract.js';
import { makeStrategy } from './strategy.js';
import type { Assignment, Plan, PlanSettings, Snapshot, WorkView } from './types.js';

export const PLAN_DEFAULTS: PlanSettings = {
  strategy: 'score',
  coefficients: COEFFICIENTS_DEFAULT,
  pipelineDelayMs: 50,
  prefillMax: 4096,
  assignmentsMax: 20_000,
};

/** @param random draws from [0, 1) */
export function plan(snapshot: Snapshot, settings: PlanSettings, nowMs: number, random: () => number): Plan {
  const strategy = makeStrategy(settings, snapshot.nodes.length, random);
  const allKnown = snapshot.work.every((work) => work.taskMs !== undefined || waitingOf(work) === 0);
  const board = new Board(snapshot.nodes, settings, strategy, { operations: 0 }, allKnown);
  const placing = new Placing(snapshot, board);
  placing.run(random);
  const asked = retractions(snapshot, placing);
  return {
    assignments: placing.assignments(),
    retractions: asked,
    reasons: new PlanReasons({
      groups: placing.groups.map(({ candidates, ...group }) => ({ ...group, passed: candidates?.passed })),
      board: board.settled(),
      shares: placing.shares,
      cutShort: placing.left <= 0,
      allowances: placing.allowances,
    }),
    atMs: nowMs,
    operations: board.meter.operations,
  };
}

/** A group with its works in this plan. */
interface PlannedGroup extends Group {
  works: WorkView[];
  /** Of its works, those that may still be placed. */
  open: number;
  candidates: Candidates | undefined;
}

/** One plan in the making. */
export class Placing {
  /** Tasks this plan may still assign. */
  left: number;
  /** Tasks placed per work, by its position in the snapshot. */
  readonly placed: Float64Array;
  /** What was placed, by kind and the node's position. */
  readonly shares: Shares = new Map();
  /** Per node (by position): the highest priority this plan queued there. */
  readonly queuedPriority = new Map<number, number>();
  /** Those of the snapshot's work that wait for a place. */
  readonly groups: PlannedGroup[] = [];
  /** What is left of the quotas on running work. */
  readonly allowances = new Map<string, Allowance>();
  readonly #byKey = new Map<number | string, PlannedGroup>();
  readonly #groupAt: (PlannedGroup | undefined)[];
  /** Works that may still be placed. */
  #open = 0;
  readonly #assignments = new Map<number, Assignment>();
  /** How far each work's returned tasks have been offered. */
  readonly #offered: Uint32Array;
  /** Fresh tasks placed per work. */
  readonly #freshPlaced: Float64Array;
  /** Of works that wait and found no place: who could take them, the highest priority first; one of each group. */
  readonly #left = new Map<Candidates, number>();
  /** Tasks prefilled anywhere, by job. */
  readonly #prefilled = new Map<number, number>();

  constructor(
    readonly snapshot: Snapshot,
    readonly board: Board,
  ) {
    const { work: works, prefilled, allowances } = snapshot;
    this.left = board.settings.assignmentsMax;
    this.placed = new Float64Array(works.length);
    this.#offered = new Uint32Array(works.length);
    this.#freshPlaced = new Float64Array(works.length);
    this.#groupAt = new Array<undefined>(works.length);
    works.forEach((work, position) => {
      const waiting = waitingOf(work);
      if (waiting === 0) return;
      const group = this.#groupOf(position);
      group.works.push(work);
      group.open++;
      this.#open++;
      board.waiting += waiting;
    });
    this.groups = [...this.#byKey.values()];
    for (const [namespace, allowance] of allowances ?? []) this.allowances.set(namespace, { ...allowance });
    for (const { job, count } of prefilled) this.#prefilled.set(job, (this.#prefilled.get(job) ?? 0) + count);
  }

  run(random: () => number): void {
    const { settings, meter } = this.board;
    const { work: works, heldBySubmitter } = this.snapshot;
    if (!this.#goesOn()) return;
    const order = new FairOrder({ works, heldBySubmitter, weights: settings.submitterWeights, random, meter });
    while (this.#goesOn()) {
      const turn = order.next();
      if (!turn) break;
      const before = this.placed[turn.index] as number;
      const more = this.#serve(turn);
      const placed = (this.placed[turn.index] as number) - before;
      if (!more) this.#close(turn);
      order.placed(placed, more);
    }
  }

  /** Something may yet be placed: a work that has not found out that there is no place, and a node that takes something. */
  #goesOn(): boolean {
    if (this.left <= 0 || this.#open === 0) return false;
    return (
      this.board.openCount > 0 || this.groups.some((group) => group.open > 0 && this.#candidatesOf(group).mayReserve)
    );
  }

  /** The work finds no place any more; nor do others of its group, if that is exhausted. */
  #close({ index, work }: Turn): void {
    const group = this.#groupOf(index);
    const candidates = this.#candidatesOf(group);
    if ((this.placed[index] as number) < waitingOf(work) && !this.#left.has(candidates) && this.allowedOf(work) > 0)
      this.#left.set(candidates, work.priority);
    if (group.open === 0) return;
    const closed = group.candidates?.exhausted ? group.open : 1;
    group.open -= closed;
    this.#open -= closed;
  }

  assignments(): Assignment[] {
    return [...this.#assignments.values()];
  }

  /** The candidates for the work at this position, made on first use. */
  candidatesOf(position: number): Candidates {
    return this.#candidatesOf(this.#groupOf(position));
  }

  #candidatesOf(group: PlannedGroup): Candidates {
    return (group.candidates ??= new Candidates(group, this.board));
  }

  #groupOf(position: number): PlannedGroup {
    let group = this.#groupAt[position];
    if (group) return group;
    const work = this.snapshot.work[position] as WorkView;
    const key = groupKey(work);
    group = this.#byKey.get(key);
    if (!group) this.#byKey.set(key, (group = { ...groupOf(work), works: [], open: 0, candidates: undefined }));
    this.#groupAt[position] = group;
    return group;
  }

  /** How many more tasks of this work its namespace may be assigned; Infinity without quotas. */
  allowedOf(work: WorkView): number {
    return allowedTo(work.namespace, costOfKind(work.kind).cpuMillis, this.allowances);
  }

  /** Places at most the turn's tasks. False: the work finds no place for any more in this plan. */
  #serve({ index, work, upTo }: Turn): boolean {
    const candidates = this.candidatesOf(index);
    let rest = Math.min(upTo, this.left, this.allowedOf(work));
    if (rest <= 0 || candidates.exhausted) return false;
    const isWanted = (node: NodeState): boolean => this.#isWanted(node, work.priority);
    const asked: Asked = { work, upTo: rest, avoid: NOWHERE, isWanted };
    for (let next = this.#offered[index] as number; rest > 0 && next < work.returned.length; ) {
      const task = work.returned[next++];
      this.#offered[index] = next;
      if (!task) break;
      const avoid = candidates.avoidable(task.failedNodes);
      const taken = this.#take(candidates, { ...asked, upTo: 1, avoid });
      if (!taken) continue;
      this.#assign(index, work, taken).returned.push(task.index);
      rest--;
    }
    while (rest > 0) {
      const fresh = Math.min(rest, work.fresh - (this.#freshPlaced[index] as number));
      if (fresh <= 0) return (this.#offered[index] as number) < work.returned.length;
      const taken = this.#take(candidates, { ...asked, upTo: fresh });
      if (!taken) return false;
      this.#assign(index, work, taken).fresh += taken.count;
      this.#freshPlaced[index] = (this.#freshPlaced[index] as number) + taken.count;
      rest -= taken.count;
    }
    return true;
  }

  #take(candidates: Candidates, asked: Asked): Taken | undefined {
    const taken = candidates.take(asked);
    if (taken || (this.#prefilled.get(asked.work.job) ?? 0) > 0) return taken;
    return candidates.reserve(asked);
  }

  #isWanted(node: NodeState, priority: number): boolean {
    for (const [candidates, higher] of this.#left) {
      if (higher <= priority) return false;
      if (candidates.isFeasible(node)) return true;
    }
    return false;
  }

  #assign(index: number, work: WorkView, { node, count, starts }: Taken): Assignment {
    const { seq } = node.view;
    this.left -= count;
    this.placed[index] = (this.placed[index] as number) + count;
    const allowance = this.allowances.get(work.namespace ?? '');
    if (allowance) {
      allowance.tasks -= count;
      allowance.cpuMillis -= count * costOfKind(work.kind).cpuMillis;
    }
    if (!starts) {
      this.#prefilled.set(work.job, (this.#prefilled.get(work.job) ?? 0) + count);
      this.queuedPriority.set(node.index, Math.max(this.queuedPriority.get(node.index) ?? -Infinity, work.priority));
    }
    this.#count(work.kind.id, node.index, count, starts);
    const key = index * this.board.views.length + node.index;
    let assignment = this.#assignments.get(key);
    if (!assignment) this.#assignments.set(key, (assignment = { job: work.job, node: seq, fresh: 0, returned: [] }));
    return assignment;
  }

  #count(kind: number, node: number, count: number, starts: boolean): void {
    let ofKind = this.shares.get(kind);
    if (!ofKind) this.shares.set(kind, (ofKind = new Map()));
    let share = ofKind.get(node);
    if (!share) ofKind.set(node, (share = { starting: 0, prefilled: 0 }));
    if (starts) share.starting += count;
    else share.prefilled += count;
  }
}
