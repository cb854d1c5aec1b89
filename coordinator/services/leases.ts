/**
 * How the three times must relate. An agent counts its lease from when it sent what was answered, its leader answers only
 * while its own lease holds, and a successor gives every node a whole lease from when it took over: so whatever the times
 * are, an agent's fence comes before its work is given away, as long as all coordinators of a mesh are given the same
 * ones. What can go wrong within one coordinator's settings is said at its start.
 */
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';

export interface Leases {
  heartbeat: number;
  nodeLease: number;
  leaderLease: number;
}

/** From the death of a leader to its successor, at most: watched for a lease, looked at every quarter of one, and room. */
const TAKEOVER_LEASES = 2;

/** @throws MeshError BAD_CONFIG when no node could keep its lease; what only costs work is a warning in the log */
export function checkLeases({ heartbeat, nodeLease, leaderLease }: Leases, log: Logger): void {
  if (nodeLease <= heartbeat)
    throw new MeshError(
      'BAD_CONFIG',
      `--node-lease (${nodeLease} ms) must be longer than --heartbeat (${heartbeat} ms)`,
      { hint: 'several times as long: a lease lasts from heartbeat to heartbeat' },
    );
  if (nodeLease < TAKEOVER_LEASES * leaderLease)
    log.warn(
      { event: 'leases.short', nodeLeaseMs: nodeLease, leaderLeaseMs: leaderLease },
      'a takeover can outlast the lease of the nodes: tasks of --on-disconnect stop would be ended and begun again; ' +
        'make --node-lease at least twice --leader-lease',
    );
}
