import { MeshError } from '../../common/errors.js';
import { readCsr } from '../../common/identity/csr.js';
import { publicKeyDigest } from '../../common/identity/keys.js';
import type * as api from '../../proto/gen/mesh/v1/node.js';
import { type NodeServiceServer, NodeServiceService as Nodes } from '../../proto/gen/mesh/v1/node.js';
import type { JoinRequestRow } from '../ports.js';
import type { Approvals } from '../services/approvals.js';
import { actorOf } from '../services/audit.js';
import type { Enrollment } from '../services/enrollment.js';
import type { Issuance } from '../services/issuance.js';
import type { Removal } from '../services/removal.js';
import type { Gate } from './authorize.js';

export interface NodePlane {
  /** @throws MeshError NOT_LEADER */
  lead(): { readonly removal: Removal };
  readonly approvals: Approvals;
  readonly enrollment: Enrollment;
  readonly issuance: Issuance;
}

const presentWaiting = (row: JoinRequestRow): api.WaitingNode => ({
  name: row.name,
  publicKey: readCsr(row.csr).publicKeyDer,
  address: row.address,
  tokenId: row.tokenId,
  requestedAtMs: row.requestedAtMs,
  expiresAtMs: row.expiresAtMs,
});

export function makeNodeService(gate: Gate, plane: NodePlane): NodeServiceServer {
  return {
    listWaiting: gate.unary<api.ListWaitingRequest, api.ListWaitingResponse>(Nodes.listWaiting.path, async () => {
      plane.lead();
      return { items: (await plane.approvals.waiting()).map(presentWaiting) };
    }),
    approveNode: gate.unary<api.ApproveNodeRequest, api.ApproveNodeResponse>(
      Nodes.approveNode.path,
      async ({ name, publicKey }, context) => {
        plane.lead();
        return plane.enrollment.approve(actorOf(context), name, publicKeyDigest(publicKey));
      },
    ),
    refuseNode: gate.unary<api.RefuseNodeRequest, api.RefuseNodeResponse>(
      Nodes.refuseNode.path,
      async ({ name, publicKey }, context) => {
        plane.lead();
        return plane.approvals.refuse(actorOf(context), name, publicKeyDigest(publicKey));
      },
    ),
    revokeNode: gate.unary<api.RevokeNodeRequest, api.RevokeNodeResponse>(
      Nodes.revokeNode.path,
      async ({ name }, context) => {
        plane.lead();
        const revoked = await plane.issuance.revokeHolder(actorOf(context), 'agent', name);
        if (revoked.length === 0)
          throw new MeshError('NOT_FOUND', `no agent "${name.slice(0, 80)}" holds a certificate`, {
            hint: 'see: mesh nodes',
          });
        return { name, serials: revoked.map(({ serial }) => serial) };
      },
    ),
    removeNode: gate.unary<api.RemoveNodeRequest, api.RemoveNodeResponse>(
      Nodes.removeNode.path,
      async ({ name }, context) => {
        const { removal } = plane.lead();
        await removal.remove(actorOf(context), name);
        return { name };
      },
    ),
  };
}
