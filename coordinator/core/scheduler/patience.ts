/**
 * When a slow node is better left idle. Near the end of the work, a task that starts on a machine of an eighth of the speed
 * ends long after faster machines would have worked off everything that waits, and the whole job waits for it. So, for each
 * node with room, the earliest end there is compared with the end that faster nodes promise:
 *
 *   there    what is queued there / what it finishes in a millisecond + task time × its pace
 *   faster   for each k, of the k fastest nodes that may run it: everything that waits and is queued there / what they
 *            finish in a millisecond + task time × the pace of the k-th; the least of these
 *
 * All that waits counts, of whatever work, so a full mesh is never patient. What the nodes finish is estimated from learned
 * times of what runs there, so a fast machine that is held by long tasks promises nothing. Estimates may be wrong: work waits
 * no longer than the slow node would have taken, which bounds the loss to a factor of two.
 *
 * This is the earliest completion time rule of list scheduling on uniform machines (Ibarra and Kim, Heuristic algorithms for
 * scheduling independent tasks on nonidentical processors, J. ACM 24, 1977), for work that is not assigned in advance.
 */
import type { Board, NodeState } from './board.js';
import type { WorkView } from './types.js';

/** So much earlier must the end be elsewhere for a slot to stay idle: estimates are coarse, and that is a loss for certain. */
const WORTH_WAITING = 0.9;

export class Patience {
  /** By rising pace: the node's pace, and what those up to it finish in a millisecond and have queued. */
  #paces: number[] | undefined;
  #turnovers: number[] = [];
  #queued: number[] = [];

  constructor(
    private readonly board: Board,
    private readonly isUsable: (node: NodeState) => boolean,
  ) {}

  /** Whether this work had better wait for a faster node than be given to this one. */
  waits(node: NodeState, starts: boolean, { taskMs, unassignedForMs = 0 }: WorkView): boolean {
    const { board } = this;
    if (taskMs === undefined || node.pace * WORTH_WAITING <= board.paceMin) return false;
    const runMs = taskMs * node.pace;
    // What everybody finishes is an upper bound of what the faster ones do: mostly that settles it.
    const atMost = board.turnoverPerMs + board.openCount / (taskMs * board.paceMin);
    const waitMs = (node.queued + 1) / Math.max(node.turnoverPerMs ?? 0, 1 / runMs);
    const thereMs = starts ? runMs * WORTH_WAITING : runMs + waitMs;
    if (unassignedForMs > runMs || board.waiting / atMost + taskMs * board.paceMin > thereMs) return false;
    return this.#elsewhereMs(node.pace, taskMs) < thereMs;
  }

  /** When the last of all that waits would end on nodes that are faster than this. */
  #elsewhereMs(pace: number, taskMs: number): number {
    const paces = (this.#paces ??= this.#measure(taskMs));
    let leastMs = Infinity;
    for (let at = 0; at < paces.length && (paces[at] as number) < pace; at++) {
      const turnover = this.#turnovers[at] as number;
      if (turnover <= 0) continue;
      const waitMs = (this.board.waiting + (this.#queued[at] as number)) / turnover;
      leastMs = Math.min(leastMs, waitMs + taskMs * (paces[at] as number));
    }
    return leastMs;
  }

  #measure(taskMs: number): number[] {
    const { board } = this;
    const nodes = board.views.map((_, index) => board.state(index)).filter(this.isUsable);
    board.meter.operations += board.views.length;
    nodes.sort((a, b) => a.pace - b.pace);
    let turnover = 0;
    let queued = 0;
    for (const node of nodes) {
      const idle = Math.max(0, node.free.slots) / (taskMs * node.pace);
      turnover += ((node.turnoverPerMs ?? 0) + idle) * node.view.reliability;
      queued += node.queued;
      this.#turnovers.push(turnover);
      this.#queued.push(queued);
    }
    return nodes.map((node) => node.pace);
  }
}
