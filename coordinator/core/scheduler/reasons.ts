/** What `mesh why` answers, worked out from the end of a plan when somebody asks: planning itself pays nothing for it. */
import { BLOCKED, fullness, ruledOut } from './feasible.js';
import { type Group, groupOf, type NodeState, queueRoomFor, roomFor, standingOf, unblocked } from './candidates.js';
import { prefillDepth } from './prefill.js';
import { termsOf } from './rank.js';
import type { NodeReason, PlanSettings, Reasons, WorkView } from './types.js';

/** What one plan placed of a kind on a node. */
export interface Share {
  starting: number;
  prefilled: number;
}

export interface ReasonSource {
  works: readonly WorkView[];
  /** As the plan left them. */
  nodes: readonly NodeState[];
  /** By kind, then by the node's position. */
  shares: ReadonlyMap<number, ReadonlyMap<number, Share>>;
  settings: PlanSettings;
  /** The plan ended because it had assigned as much as one plan may. */
  cutShort: boolean;
  /** A quota of its namespace keeps more of this work from being placed. */
  heldBack: (work: WorkView) => boolean;
}

export class PlanReasons implements Reasons {
  readonly #source: ReasonSource;

  constructor(source: ReasonSource) {
    this.#source = source;
  }

  kinds(): number[] {
    return [...new Set(this.#source.works.filter(hasWork).map((work) => work.kind.id))];
  }

  get(kind: number, job?: number): NodeReason[] | undefined {
    const works = this.#source.works.filter((work) => work.kind.id === kind && hasWork(work));
    const work =
      works.find((candidate) => candidate.job === job) ?? works.find((w) => w.blockedNodes.size === 0) ?? works[0];
    if (!work) return undefined;
    const group = groupOf(work);
    const { nodes } = this.#source;
    const able =
      group.blocked.size === 0 ? nodes : nodes.filter((node) => !ruledOut(group.kind, group.cost, node.view));
    const open = new Set(unblocked(able, group.blocked));
    const heldBack = this.#source.heldBack(work);
    return nodes.map((node) => this.#reason(node, group, open.has(node), heldBack));
  }

  #reason(node: NodeState, group: Group, isOpen: boolean, heldBack: boolean): NodeReason {
    const { settings } = this.#source;
    const { seq } = node.view;
    const out = ruledOut(group.kind, group.cost, node.view) ?? (isOpen ? undefined : BLOCKED);
    if (out) return { node: seq, feasible: false, reason: out, score: undefined, terms: {} };
    // As the node stood before this plan: that is what made it chosen or not.
    const before = { ...node, queued: node.view.queued, load: node.view.load, turnoverPerMs: node.view.turnoverPerMs };
    const terms = termsOf(standingOf(before, group, settings), settings.coefficients);
    const score = Object.values(terms).reduce((sum, term) => sum + term, 0);
    return { node: seq, feasible: true, reason: this.#standing(node, group, heldBack), score, terms };
  }

  #standing(node: NodeState, group: Group, heldBack: boolean): string {
    const { shares, settings, cutShort } = this.#source;
    const share = shares.get(group.kind.id)?.get(node.index);
    if (share) {
      const parts = [
        share.starting > 0 ? `${share.starting} to start` : '',
        share.prefilled > 0 ? `${share.prefilled} queued` : '',
      ];
      return `chosen: ${parts.filter(Boolean).join(', ')}`;
    }
    if (roomFor(node.free, node.reserve, group.cost) > 0) {
      if (heldBack) return 'has room: a quota of the namespace holds it back';
      return cutShort ? 'has room: next in turn' : 'has room: not needed';
    }
    const full = fullness(group.cost, node.free, node.view.total);
    if (!full) return 'full: what is free is kept for a larger task that waits there';
    const input = {
      ...node.view,
      slots: node.view.total.slots,
      taskMs: group.taskMs,
      turnoverPerMs: node.turnoverPerMs,
    };
    const depth = prefillDepth(input, settings);
    if (queueRoomFor(node, group, settings) > 0) return `full: ${full}`;
    return node.queued > 0
      ? `full: ${full}, ${node.queued} queued of ${Math.max(depth, node.queued)}`
      : `full: ${full}`;
  }
}

const hasWork = (work: WorkView): boolean => work.fresh + work.returned.length > 0;
