/**
 * Forgets a node that is gone. Its certificates are revoked, so it does not come back by itself; what was still assigned
 * there is given away, not before the node is certain to have stopped it; then its row is marked, and shown nowhere from
 * then on. The row stays, because tasks that ran there are told by its name, and whoever joins under that name has it.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import type { Ledger } from '../core/ledger.js';
import type { Store } from '../ports.js';
import type { Actor, Audit } from './audit.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Issuance } from './issuance.js';
import type { Results } from './results.js';

export interface RemovalOptions {
  store: Store;
  audit: Audit;
  fleet: Fleet;
  ledger: Ledger;
  results: Results;
  issuance: Issuance;
  clock: Clock;
  log: Logger;
}

export class Removal {
  readonly #options: RemovalOptions;

  constructor(options: RemovalOptions) {
    this.#options = options;
  }

  /** @throws MeshError NOT_FOUND, or CONFLICT while it is there or may be, unless it is revoked */
  async remove(actor: Actor, name: string): Promise<LiveNode> {
    const { store, audit, fleet, ledger, results, issuance, clock, log } = this.#options;
    const node = fleet.named(name);
    this.#requireGone(node);
    await issuance.revokeHolder(actor, 'agent', name, 'it was removed');
    const { seq } = node.row;
    const fencedInMs = node.liveness.leaseLeftMs(clock.monotonicMs());
    results.lost(ledger.ofNode(seq), 'shutdown', `${name} was removed from the mesh`, fencedInMs);
    await results.gaveAway(seq);
    const row = await store.nodes.remove(name);
    if (row) fleet.put(row);
    await audit.record(actor, 'node.removed', name);
    log.warn({ event: 'node.removed', node: name, actor: actor.name });
    return node;
  }

  #requireGone({ row, session, liveness }: LiveNode): void {
    if (row.revoked || (!session?.open && liveness.state === 'OFFLINE')) return;
    const why = session?.open ? 'it is connected' : 'it was heard of within its lease';
    throw new MeshError('CONFLICT', `${row.name} is not gone: ${why}`, {
      hint: `stop its agent and wait until it is OFFLINE, or shut it out first: mesh revoke ${row.name}`,
    });
  }
}
