import type { Role } from '../../common/identity/identity.js';

/**
 * Who may call what: the one table that gRPC and HTTP enforce. `nobody` is a peer without a certificate, `expired` one
 * whose certificate was good until it ended. A method that is not listed is refused, and a test fails when a service has
 * one. docs/roles.md is made from it.
 */
export type Caller = Role | 'nobody' | 'expired';

const PEOPLE: readonly Caller[] = ['operator', 'submitter'];
const READERS: readonly Caller[] = ['operator', 'submitter', 'viewer'];
const OPERATOR: readonly Caller[] = ['operator'];
const EVERY_ROLE: readonly Caller[] = ['agent', 'coordinator', 'operator', 'submitter', 'viewer', 'metrics'];

export const METHOD_ROLES: Readonly<Record<string, readonly Caller[]>> = {
  '/mesh.v1.EnrollService/Join': ['nobody'],
  '/mesh.v1.EnrollService/Recover': ['expired'],

  '/mesh.v1.AgentService/Session': ['agent'],
  '/mesh.v1.AgentService/StreamLogs': ['agent'],
  '/mesh.v1.AgentService/FetchBlob': ['agent'],

  '/mesh.v1.CaService/Issue': OPERATOR,
  '/mesh.v1.CaService/Renew': EVERY_ROLE,
  '/mesh.v1.CaService/RenewIssuer': ['coordinator'],
  '/mesh.v1.CaService/Revoke': OPERATOR,
  '/mesh.v1.CaService/ListCertificates': OPERATOR,
  '/mesh.v1.CaService/GetCrl': EVERY_ROLE,

  '/mesh.v1.NamespaceService/ListNamespaces': READERS,
  '/mesh.v1.NamespaceService/SetNamespace': OPERATOR,
  '/mesh.v1.NamespaceService/RemoveNamespace': OPERATOR,

  '/mesh.v1.AuditService/ListAudit': OPERATOR,
  '/mesh.v1.AuditService/ReadAudit': OPERATOR,
  '/mesh.v1.NodeService/ListWaiting': OPERATOR,
  '/mesh.v1.NodeService/ApproveNode': OPERATOR,
  '/mesh.v1.NodeService/RefuseNode': OPERATOR,
  '/mesh.v1.NodeService/RevokeNode': OPERATOR,
  '/mesh.v1.NodeService/RemoveNode': OPERATOR,
  '/mesh.v1.RotationService/StartRotation': OPERATOR,
  '/mesh.v1.RotationService/GetRotation': OPERATOR,
  '/mesh.v1.RotationService/FinishRotation': OPERATOR,

  '/mesh.v1.SecretService/SetSecret': PEOPLE,
  '/mesh.v1.SecretService/ListSecrets': PEOPLE,
  '/mesh.v1.SecretService/RemoveSecret': PEOPLE,
  '/mesh.v1.SecretService/ShareKey': ['coordinator'],

  '/mesh.v1.DoctorService/Examine': OPERATOR,

  '/mesh.v1.MeshService/SubmitJob': PEOPLE,
  '/mesh.v1.MeshService/SubmitJobs': PEOPLE,
  '/mesh.v1.MeshService/RunJob': PEOPLE,
  '/mesh.v1.MeshService/RunJobs': PEOPLE,
  '/mesh.v1.MeshService/MissingBlobs': PEOPLE,
  '/mesh.v1.MeshService/PutBlob': PEOPLE,
  '/mesh.v1.MeshService/GetJob': READERS,
  '/mesh.v1.MeshService/ListJobs': READERS,
  '/mesh.v1.MeshService/ListTasks': READERS,
  '/mesh.v1.MeshService/WatchJob': READERS,
  '/mesh.v1.MeshService/ReadLogs': PEOPLE,
  '/mesh.v1.MeshService/ReadResults': PEOPLE,
  '/mesh.v1.MeshService/CancelJob': PEOPLE,
  '/mesh.v1.MeshService/RetryJob': PEOPLE,
  '/mesh.v1.MeshService/Explain': READERS,
  '/mesh.v1.MeshService/ListNodes': READERS,
  '/mesh.v1.MeshService/GetNode': READERS,
  '/mesh.v1.MeshService/DrainNode': OPERATOR,
  '/mesh.v1.MeshService/CreateToken': OPERATOR,
  '/mesh.v1.MeshService/ListTokens': OPERATOR,
  '/mesh.v1.MeshService/RevokeToken': OPERATOR,
};

/**
 * Methods that name a job, in the first field of the request: to a submitter there are no jobs but their own, and what is
 * not theirs is not found. Enforced where jobs are looked up (services/queries.ts); a test goes through this list.
 */
export const JOB_METHODS: readonly string[] = [
  '/mesh.v1.MeshService/GetJob',
  '/mesh.v1.MeshService/ListTasks',
  '/mesh.v1.MeshService/WatchJob',
  '/mesh.v1.MeshService/ReadLogs',
  '/mesh.v1.MeshService/ReadResults',
  '/mesh.v1.MeshService/CancelJob',
  '/mesh.v1.MeshService/RetryJob',
  '/mesh.v1.MeshService/Explain',
];

/** What a role sees less of than another that may call the same. For people. */
export const RESTRICTIONS: Readonly<Record<string, Partial<Record<Caller, string>>>> = {
  ...Object.fromEntries(JOB_METHODS.map((path) => [path, { submitter: 'own jobs' }])),
  '/mesh.v1.MeshService/ListJobs': { submitter: 'own jobs' },
  '/mesh.v1.MeshService/ListTasks': { submitter: 'own jobs', viewer: 'without results' },
  '/mesh.v1.NamespaceService/ListNamespaces': { submitter: 'their own' },
  '/mesh.v1.CaService/Renew': Object.fromEntries(EVERY_ROLE.map((role) => [role, 'their own'])),
  '/mesh.v1.CaService/RenewIssuer': { coordinator: 'their own' },
};

export const PATH_ROLES: Readonly<Record<string, readonly Caller[] | 'anyone'>> = {
  '/healthz': 'anyone',
  '/readyz': 'anyone',
  // Public by its nature: it names serials, nobody and nothing else.
  '/crl': 'anyone',
  '/metrics': ['metrics', 'operator', 'viewer'],
};
