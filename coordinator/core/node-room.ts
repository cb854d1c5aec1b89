import type { NodeAccount } from './live-attempt.js';
import { isLarge, NO_ROOM } from './room.js';
import type { Cost, Room } from './scheduler/types.js';

/** Assumed for held tasks of jobs nothing is known about, in `turnoverPerMs`. */
const TASK_MS_UNKNOWN = 1000;

/** A node as the ledger sees it; spread it into a NodeView. */
export interface NodeRoom {
  total: Room;
  free: Room;
  /** Waiting beyond what fits, those that were asked back included. */
  queued: number;
  reserve: Cost | undefined;
  turnoverPerMs: number | undefined;
}

export function nodeRoom(node: NodeAccount | undefined, taskMsOf: (job: number) => number | undefined): NodeRoom {
  if (!node) return { total: NO_ROOM, free: NO_ROOM, queued: 0, reserve: undefined, turnoverPerMs: undefined };
  let turnover = 0;
  for (const share of node.shares.values())
    if (share.holding > 0) turnover += share.holding / Math.max(taskMsOf(share.account.job) ?? TASK_MS_UNKNOWN, 0.001);
  return {
    total: node.total,
    free: node.free,
    queued: node.waiting.size,
    reserve: node.largeWaiting > 0 ? firstLarge(node) : undefined,
    turnoverPerMs: turnover > 0 ? turnover : undefined,
  };
}

function firstLarge(node: NodeAccount): Cost | undefined {
  for (let entry = node.waiting.first; entry; entry = entry.next)
    if (isLarge(entry.share.account.cost, node.total)) return entry.share.account.cost;
  return undefined;
}
