import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import {
  type CaServiceServer,
  CaServiceService as Ca,
  type Certificate,
  type GetCrlRequest,
  type GetCrlResponse,
  type IssueRequest,
  type IssueResponse,
  type ListCertificatesRequest,
  type ListCertificatesResponse,
  type RenewIssuerRequest,
  type RenewIssuerResponse,
  type RenewRequest,
  type RenewResponse,
  type RevokeRequest,
  type RevokeResponse,
} from '../../proto/gen/mesh/v1/ca.js';
import {
  type EnrollServiceServer,
  EnrollServiceService as Enroll,
  type JoinRequest,
  type JoinResponse,
  type RecoverRequest,
  type RecoverResponse,
} from '../../proto/gen/mesh/v1/enroll.js';
import type { CertificateRow } from '../ports.js';
import { actorOf } from '../services/audit.js';
import type { Enrollment } from '../services/enrollment.js';
import type { Issuance } from '../services/issuance.js';
import type { RevocationList } from '../services/revocation-list.js';
import type { Recovery } from '../services/recovery.js';
import type { Roster } from '../services/roster.js';
import type { CallContext, Gate } from './authorize.js';

export const callerOf = (context: CallContext): Identity => {
  if (!context.identity) throw new MeshError('UNAUTHENTICATED', 'this call needs a certificate');
  return context.identity;
};

const toCertificate = (row: CertificateRow): Certificate => ({
  serial: row.serial,
  role: row.role,
  name: row.name,
  notBeforeMs: row.notBeforeMs,
  notAfterMs: row.notAfterMs,
  fingerprint: row.fingerprint,
  revokedAtMs: row.revokedAtMs,
});

/** What certifies. Every call is for the leader, but the renewal of an intermediate, revoking, which cannot wait
 * for one, and the list of what was revoked. */
export interface AuthorityPlane {
  /** @throws MeshError NOT_LEADER */
  lead(): unknown;
  readonly issuance: Issuance;
  readonly enrollment: Enrollment;
  readonly revocationList: RevocationList;
  readonly recovery: Recovery;
  readonly roster: Roster;
}

export function makeCaService(gate: Gate, plane: AuthorityPlane): CaServiceServer {
  const issuance = () => {
    plane.lead();
    return plane.issuance;
  };
  return {
    issue: gate.unary<IssueRequest, IssueResponse>(Ca.issue.path, async (request, context) => ({
      certificateChain: (await issuance().issue(actorOf(context), request)).pem,
      root: plane.issuance.rootPem,
    })),
    renew: gate.unary<RenewRequest, RenewResponse>(Ca.renew.path, async ({ csr }, context) => ({
      certificateChain: (await issuance().renew(callerOf(context), csr, context.address)).pem,
      root: plane.issuance.rootPem,
    })),
    renewIssuer: gate.unary<RenewIssuerRequest, RenewIssuerResponse>(Ca.renewIssuer.path, async (request, context) => {
      const { name } = callerOf(context);
      const root = request.root === '' ? undefined : request.root;
      const issuer = await plane.issuance.signIssuer(actorOf(context), name, request.csr, root);
      return { issuer, root: plane.issuance.rootPem };
    }),
    revoke: gate.unary<RevokeRequest, RevokeResponse>(Ca.revoke.path, async ({ nameOrSerial }, context) => ({
      revoked: (await plane.issuance.revoke(actorOf(context), nameOrSerial)).map(toCertificate),
    })),
    listCertificates: gate.unary<ListCertificatesRequest, ListCertificatesResponse>(
      Ca.listCertificates.path,
      async () => ({ items: (await issuance().list()).map(toCertificate) }),
    ),
    getCrl: gate.unary<GetCrlRequest, GetCrlResponse>(Ca.getCrl.path, async () => ({
      crl: await plane.revocationList.current(),
    })),
  };
}

export function makeEnrollService(gate: Gate, plane: AuthorityPlane, meshId: string): EnrollServiceServer {
  return {
    join: gate.unary<JoinRequest, JoinResponse>(Enroll.join.path, async (request, context) => {
      plane.lead();
      const row = await plane.enrollment.join({ ...request, address: context.address });
      return {
        certificateChain: row.pem,
        root: plane.issuance.rootPem,
        name: row.name,
        role: row.role,
        meshId,
        coordinators: plane.roster.addresses(),
        issuer:
          row.role === 'coordinator'
            ? await plane.issuance.signIssuer(actorOf(context), row.name, request.issuerCsr)
            : '',
      };
    }),
    recover: gate.unary<RecoverRequest, RecoverResponse>(Enroll.recover.path, async ({ csr }, context) => {
      plane.lead();
      const row = await plane.recovery.recover(callerOf(context), csr, context.address);
      return { certificateChain: row.pem, root: plane.issuance.rootPem };
    }),
  };
}
