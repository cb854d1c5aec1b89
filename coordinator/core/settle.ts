/**
 * What becomes of a task when an attempt ends. Failures are the task's own doing, losses the infrastructure's; they are
 * counted and bounded separately (invariant I4), and a retraction is neither (docs/architecture.md).
 */
import { backoffMs } from '../../common/retry.js';
import type { AttemptCounts, AttemptOutcome, RetryPolicy } from './task.js';

/** A lost attempt that ran for less is due at once; what it had done is cheap to repeat. */
export const YOUNG_MS = 60_000;
/** A longer one waits for this share of its running time for its node to come back … */
const LOSS_PATIENCE = 0.1;
/** … but never longer than this. */
export const LOSS_PATIENCE_MAX_MS = 600_000;
/** A node that could not run a task may be able to a moment later, and others can now. */
const NODE_FAULT_BACKOFF = { baseMs: 1000, capMs: 30_000 };
/** A task is quarantined once it took this many distinct nodes down, or all there are but never for a single node. */
const QUARANTINE_NODES = 3;

export interface AttemptEnd {
  outcome: AttemptOutcome;
  /** The task's counters before this end. */
  counts: AttemptCounts;
  policy: RetryPolicy;
  /** How long the attempt ran, as far as is known; zero when it had not started. */
  ranMs: number;
  /** What the agent or the reaper said; kept as the task's last error. */
  error: string | undefined;
  /** The task's attempts are killed by an agent that has lost the coordinator: nobody needs to wait for it. */
  fenced: boolean;
  /** For a fenced attempt that was lost early: until its agent has killed it for certain. */
  fencedInMs: number;
  /** Distinct nodes lost while they ran this task, this one included; only asked for `node-lost`. */
  nodesLost: number;
  /** Nodes of the mesh that are not revoked; only asked for `node-lost`. */
  nodes: number;
}

export interface Decision {
  to: 'COMPLETED' | 'FAILED' | 'RETRYING' | 'QUEUED';
  /** Added to the task's counters. */
  failure: 0 | 1;
  loss: 0 | 1;
  /** For RETRYING and QUEUED: from now, in milliseconds. */
  dueInMs: number | undefined;
  error: string | undefined;
}

/**
 * Decides it. Pure.
 * @param random in [0, 1), for the jitter of backoffs
 */
export function settle(end: AttemptEnd, random: number): Decision {
  switch (end.outcome) {
    case 'succeeded':
      return { to: 'COMPLETED', failure: 0, loss: 0, dueInMs: undefined, error: undefined };
    case 'retracted':
      return { to: 'QUEUED', failure: 0, loss: 0, dueInMs: 0, error: undefined };
    case 'failed':
    case 'timed-out':
      return failed(end, random);
    case 'node-lost':
      return lost(end, end.fenced ? end.fencedInMs : lossDelayMs(end.ranMs), 'the node was lost');
    case 'node-fault':
      return lost(end, backoffMs(NODE_FAULT_BACKOFF, end.counts.losses + 1, random), 'the node could not run it');
    case 'shutdown':
      return lost(end, 0, 'the agent was stopped');
    case 'cancelled':
      // A cancelled job's row is terminal already and this decision finds no match. Otherwise the agent gave the
      // attempt up by itself, which is no fault of the task.
      return lost(end, 0, 'the agent gave the attempt up');
  }
}

/** How long a lost attempt's node may come back before the task is given away: a night's render is worth ten minutes. */
export function lossDelayMs(ranMs: number): number {
  return ranMs < YOUNG_MS ? 0 : Math.min(Math.round(ranMs * LOSS_PATIENCE), LOSS_PATIENCE_MAX_MS);
}

function failed({ outcome, counts, policy, error }: AttemptEnd, random: number): Decision {
  const failures = counts.failures + 1;
  const why = error || (outcome === 'timed-out' ? 'timed out' : 'failed');
  if (failures >= policy.failuresMax) return { to: 'FAILED', failure: 1, loss: 0, dueInMs: undefined, error: why };
  const dueInMs = backoffMs({ baseMs: policy.backoffMs, capMs: policy.backoffCapMs }, failures, random);
  return { to: 'RETRYING', failure: 1, loss: 0, dueInMs, error: why };
}

function lost(end: AttemptEnd, dueInMs: number, fallback: string): Decision {
  const { outcome, counts, policy } = end;
  const why = end.error || fallback;
  const losses = counts.losses + 1;
  if (outcome === 'node-lost' && isQuarantined(end.nodesLost, end.nodes))
    return ended(`quarantined: ${end.nodesLost} different nodes were lost while they ran it; the last: ${why}`);
  if (losses >= policy.lossesMax) return ended(`lost ${losses} times without a fault of its own; the last: ${why}`);
  return { to: 'RETRYING', failure: 0, loss: 1, dueInMs, error: why };
}

const ended = (error: string): Decision => ({ to: 'FAILED', failure: 0, loss: 1, dueInMs: undefined, error });

/**
 * min(3, nodes) distinct nodes. With one node there is nothing to compare with, and one power cut would condemn all that
 * ran: the bound on losses must do there.
 */
function isQuarantined(nodesLost: number, nodes: number): boolean {
  return nodes > 1 && nodesLost >= Math.min(QUARANTINE_NODES, nodes);
}
