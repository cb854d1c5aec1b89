/**
 * Decides what goes where. Pure: the same snapshot, settings, time and random draws give the same plan.
 *
 * Work is offered in fair order (fair.ts) and placed in chunks on the best candidates of its group (candidates.ts), first
 * where it can start, then in the queues that bridge the pipeline delay (prefill.ts). Returned tasks of a job go before its
 * fresh ones. Then prefilled tasks that would better be elsewhere are asked back (retract.ts).
 *
 * Fresh work is a number, so nothing depends on how much of it waits. The cost is one look at each node for every group
 * with work, O(log nodes) for every chunk, and a sort of the jobs that have work.
 *
 * It fails soft: a snapshot that is out of date makes assignments that the store's guards refuse, or that wait on the agent.
 */
import { type Allowance, allowed } from '../quotas.js';
import { costOf } from '../room.js';
import { Candidates, type Group, groupOf, nodeState, type PlanContext, type Taken } from './candidates.js';
import { FairOrder, type Turn } from './fair.js';
import type { Meter } from './heap.js';
import { COEFFICIENTS_DEFAULT } from './rank.js';
import { PlanReasons, type Share } from './reasons.js';
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
  const meter: Meter = { operations: 0 };
  const nodes = snapshot.nodes.map(nodeState);
  const strategy = makeStrategy(settings, nodes.length, random);
  const placing = new Placing(snapshot, { nodes, settings, strategy, meter, turn: 0 });
  placing.run(random);
  return {
    assignments: placing.assignments(),
    retractions: retractions(snapshot, placing),
    reasons: new PlanReasons({
      works: snapshot.work,
      nodes,
      shares: placing.shares,
      settings,
      cutShort: placing.left <= 0,
      heldBack: (work) => placing.allowedOf(work) < 1,
    }),
    atMs: nowMs,
    operations: meter.operations,
  };
}

/** One plan in the making. */
export class Placing {
  /** Tasks this plan may still assign. */
  left: number;
  /** Tasks placed per work, by its position in the snapshot. */
  readonly placed: number[];
  /** What was placed, by kind and the node's position. */
  readonly shares = new Map<number, Map<number, Share>>();
  /** Per node (by position): the highest priority this plan queued there. */
  readonly queuedPriority = new Map<number, number>();
  readonly #candidates = new Map<string, Candidates>();
  readonly #groups: (Candidates | undefined)[] = [];
  readonly #assignments = new Map<number, Assignment>();
  /** How far each work's returned tasks have been offered. */
  readonly #offered: number[];
  /** Fresh tasks placed per work. */
  readonly #freshPlaced: number[];
  /** Tasks prefilled anywhere, by job. */
  readonly #prefilled = new Map<number, number>();
  /** What is left of the quotas on running work. */
  readonly #allowances = new Map<string, Allowance>();

  constructor(
    readonly snapshot: Snapshot,
    readonly context: PlanContext,
  ) {
    this.left = context.settings.assignmentsMax;
    this.placed = snapshot.work.map(() => 0);
    this.#offered = snapshot.work.map(() => 0);
    this.#freshPlaced = snapshot.work.map(() => 0);
    for (const [namespace, allowance] of snapshot.allowances ?? []) this.#allowances.set(namespace, { ...allowance });
    for (const { job, count } of snapshot.prefilled) this.#prefilled.set(job, (this.#prefilled.get(job) ?? 0) + count);
  }

  run(random: () => number): void {
    const { settings, meter } = this.context;
    const { work: works, heldBySubmitter } = this.snapshot;
    const order = new FairOrder({ works, heldBySubmitter, weights: settings.submitterWeights, random, meter });
    while (this.left > 0) {
      const turn = order.next();
      if (!turn) return;
      const before = this.placed[turn.index] as number;
      const more = this.#serve(turn);
      order.placed((this.placed[turn.index] as number) - before, more);
    }
  }

  assignments(): Assignment[] {
    return [...this.#assignments.values()];
  }

  /** The candidates for the work at this position, made on first use. */
  candidatesOf(position: number): Candidates {
    let candidates = this.#groups[position];
    if (!candidates) {
      const { key, ...group } = groupOf(this.snapshot.work[position] as WorkView);
      candidates = this.#candidates.get(key) ?? new Candidates(group satisfies Group, this.context);
      this.#candidates.set(key, candidates);
      this.#groups[position] = candidates;
    }
    return candidates;
  }

  /** How many more tasks of this work its namespace may be assigned; Infinity without quotas. */
  allowedOf(work: WorkView): number {
    const allowance = this.#allowances.get(work.namespace ?? '');
    return allowance ? allowed(allowance, costOf(work.kind.resources).cpuMillis) : Infinity;
  }

  /** Places at most the turn's tasks. False: the work finds no place for any more in this plan. */
  #serve({ index, work, upTo }: Turn): boolean {
    const candidates = this.candidatesOf(index);
    let rest = Math.min(upTo, this.left, this.allowedOf(work));
    if (rest <= 0) return false;
    for (let next = this.#offered[index] as number; rest > 0 && next < work.returned.length; ) {
      const task = work.returned[next++];
      this.#offered[index] = next;
      if (!task) break;
      const taken = this.#take(candidates, work, 1, candidates.avoidable(task.failedNodes));
      if (!taken) continue;
      this.#assign(index, work, taken).returned.push(task.index);
      rest--;
    }
    while (rest > 0) {
      const fresh = Math.min(rest, work.fresh - (this.#freshPlaced[index] as number));
      if (fresh <= 0) return (this.#offered[index] as number) < work.returned.length;
      const taken = this.#take(candidates, work, fresh, []);
      if (!taken) return false;
      this.#assign(index, work, taken).fresh += taken.count;
      this.#freshPlaced[index] = (this.#freshPlaced[index] as number) + taken.count;
      rest -= taken.count;
    }
    return true;
  }

  #take(candidates: Candidates, work: WorkView, upTo: number, avoid: readonly number[]): Taken | undefined {
    const taken = candidates.take(upTo, avoid);
    if (taken || (this.#prefilled.get(work.job) ?? 0) > 0) return taken;
    return candidates.reserve(avoid);
  }

  #assign(index: number, work: WorkView, { node, count, starts }: Taken): Assignment {
    const { seq } = node.view;
    this.left -= count;
    this.placed[index] = (this.placed[index] as number) + count;
    const allowance = this.#allowances.get(work.namespace ?? '');
    if (allowance) {
      allowance.tasks -= count;
      allowance.cpuMillis -= count * costOf(work.kind.resources).cpuMillis;
    }
    if (!starts) {
      this.#prefilled.set(work.job, (this.#prefilled.get(work.job) ?? 0) + count);
      this.queuedPriority.set(node.index, Math.max(this.queuedPriority.get(node.index) ?? -Infinity, work.priority));
    }
    this.#count(work.kind.id, node.index, count, starts);
    const key = index * this.context.nodes.length + node.index;
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
