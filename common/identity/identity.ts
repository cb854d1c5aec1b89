/** The roles a certificate can carry. What each may do: coordinator/rpc/roles.ts. */
export const ROLES = ['agent', 'coordinator', 'operator', 'submitter', 'viewer', 'metrics'] as const;
export type Role = (typeof ROLES)[number];

/** Whether programs have it that run a mesh, and not people and what they run. */
export const isOfMachines = (role: string): boolean => role === 'agent' || role === 'coordinator';

export const isRole = (text: string): text is Role => (ROLES as readonly string[]).includes(text);

/** Who a peer is: the outcome of the profile check of its certificate, fixed for the life of a connection. */
export interface Identity {
  meshId: string;
  role: Role;
  name: string;
  /** Lower-case hex without leading zeros, as node:crypto prints it, lower-cased. */
  serial: string;
  /** SHA-256 of the certificate's DER, lower-case hex. */
  fingerprint: string;
  notBeforeMs: number;
  notAfterMs: number;
}
