/** What `mesh why` answers, worked out from the end of a plan when somebody asks: planning itself pays nothing for it. */
import { type Allowance, allowedTo } from '../quotas.js';
import { type Board, depthFor, type Group, NodeState, queueRoomFor, roomFor, standingOf } from './board.js';
import { BLOCKED, fullness, ruledOut } from './feasible.js';
import { termsOf } from './rank.js';
import type { NodeReason, NodeView, PlanSettings, Reasons, WorkView } from './types.js';

/** What one plan placed of a kind on a node. */
export interface Share {
  starting: number;
  prefilled: number;
}

/** By kind, then by the node's position. */
export type Shares = Map<number, Map<number, Share>>;

export interface ReasonedGroup extends Group {
  works: readonly WorkView[];
  /** Nodes, by position, that were left idle because faster ones will have done it sooner. */
  passed: ReadonlySet<number> | undefined;
}

export interface ReasonSource {
  groups: readonly ReasonedGroup[];
  /** As the plan left it. */
  board: Board;
  shares: Shares;
  /** The plan ended because it had assigned as much as one plan may. */
  cutShort: boolean;
  /** What the plan left of the quotas on running work. */
  allowances: ReadonlyMap<string, Allowance>;
}

export class PlanReasons implements Reasons {
  readonly #source: ReasonSource;

  constructor(source: ReasonSource) {
    this.#source = source;
  }

  kinds(): number[] {
    return [...new Set(this.#source.groups.map(({ kind }) => kind.id))];
  }

  get(kind: number, job?: number): NodeReason[] | undefined {
    const groups = this.#source.groups.filter((group) => group.kind.id === kind);
    const works = groups.flatMap((group) => group.works);
    const work =
      works.find((candidate) => candidate.job === job) ?? works.find((w) => w.blockedNodes.size === 0) ?? works[0];
    const group = groups.find((candidate) => candidate.works.includes(work as WorkView));
    if (!work || !group) return undefined;
    const { board, allowances } = this.#source;
    const { cost, blocked } = group;
    const others =
      blocked.size > 0 && board.views.some((view) => !blocked.has(view.seq) && !ruledOut(group.kind, cost, view));
    const heldBack = allowedTo(work.namespace, group.cost.cpuMillis, allowances) < 1;
    return board.views.map((view, index) => {
      const isBlocked = others && blocked.has(view.seq);
      return this.#reason(index, group, { isBlocked, heldBack });
    });
  }

  #reason(index: number, group: ReasonedGroup, { isBlocked, heldBack }: { isBlocked: boolean; heldBack: boolean }) {
    const { settings, views } = this.#source.board;
    const view = views[index] as NodeView;
    const { seq } = view;
    const out = ruledOut(group.kind, group.cost, view) ?? (isBlocked ? BLOCKED : undefined);
    if (out) return { node: seq, feasible: false, reason: out, score: undefined, terms: {} };
    // As the node stood before this plan: that is what made it chosen or not.
    const terms = termsOf(standingOf(new NodeState(index, view), group.taskMs, settings), settings.coefficients);
    const score = Object.values(terms).reduce((sum, term) => sum + term, 0);
    return { node: seq, feasible: true, reason: this.#standing(index, group, heldBack), score, terms };
  }

  #standing(index: number, group: ReasonedGroup, heldBack: boolean): string {
    const { shares, board, cutShort } = this.#source;
    const share = shares.get(group.kind.id)?.get(index);
    if (share) {
      const parts = [
        share.starting > 0 ? `${share.starting} to start` : '',
        share.prefilled > 0 ? `${share.prefilled} queued` : '',
      ];
      return `chosen: ${parts.filter(Boolean).join(', ')}`;
    }
    const node = board.state(index);
    if (roomFor(node.free, node.reserve, group.cost) > 0) {
      if (heldBack) return 'has room: a quota of the namespace holds it back';
      if (group.passed?.has(index)) return 'has room: faster nodes will have done it sooner';
      return cutShort ? 'has room: next in turn' : 'has room: not needed';
    }
    return this.#full(node, group, board.settings);
  }

  #full(node: NodeState, group: Group, settings: PlanSettings): string {
    const full = fullness(group.cost, node.free, node.view.total);
    if (!full) return 'full: what is free is kept for a larger task that waits there';
    if (queueRoomFor(node, group, settings) > 0 || node.queued === 0) return `full: ${full}`;
    return `full: ${full}, ${node.queued} queued of ${Math.max(depthFor(node, group, settings), node.queued)}`;
  }
}
