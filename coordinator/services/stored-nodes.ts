import type { Clock } from '../../common/clock.js';
import { Paces } from '../core/pace.js';
import { type LivenessSettings, NodeLiveness } from '../core/node.js';
import type { NodeRow } from '../ports.js';
import { LiveNode } from './fleet.js';

/** Heartbeats are written down this often at least; younger ones say nothing. */
const SAVED_EVERY_MS = 5000;

/**
 * Nodes as a coordinator that stands by shows them: from when the leader last wrote down that it heard of each. Only for
 * people to look at; it compares the wall clocks of two coordinators, which no decision may.
 */
export function storedNodes(rows: readonly NodeRow[], settings: LivenessSettings, clock: Clock): LiveNode[] {
  const nowMs = clock.monotonicMs();
  return rows
    .filter((row) => !row.removed)
    .map((row) => {
      const silentMs = clock.wallMs() - (row.lastHeartbeatAtMs ?? 0);
      const liveness = NodeLiveness.connected(settings, nowMs - Math.max(0, silentMs - SAVED_EVERY_MS));
      liveness.tick(nowMs);
      return new LiveNode(row, liveness, new Paces());
    });
}
