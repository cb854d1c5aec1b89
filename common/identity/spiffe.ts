import { MeshError } from '../errors.js';
import { isName } from '../ids.js';
import { isRole, ROLES, type Role } from './identity.js';

/**
 * The identity in a certificate: `spiffe://<mesh-id>/<role>/<name>`, and `spiffe://<mesh-id>` in the certificates of the
 * authority itself (SPIFFE-ID.md §2). There is one spelling of each: whatever a URI parser would forgive (upper case,
 * percent-encoding, ports, queries, empty or extra segments, anything beyond ASCII) is refused.
 */
export interface SpiffeId {
  meshId: string;
  role: Role;
  name: string;
}

const SCHEME = 'spiffe://';

/** For messages: what a peer sent, made printable and short. */
export const quoted = (bytes: Uint8Array): string =>
  JSON.stringify(Buffer.from(bytes).toString('latin1').slice(0, 100));

function checked(what: string, text: string): string {
  if (!isName(text))
    throw new MeshError('BAD_NAME', `the ${what} ${JSON.stringify(text.slice(0, 100))} is not allowed`);
  return text;
}

/** @throws MeshError BAD_NAME */
export const formatMeshUri = (meshId: string): string => SCHEME + checked('mesh id', meshId);

/** @throws MeshError BAD_NAME */
export function formatSpiffeId(id: SpiffeId): string {
  return `${formatMeshUri(id.meshId)}/${id.role}/${checked('name', id.name)}`;
}

function segments(uri: Uint8Array): string[] {
  const text = Buffer.from(uri).toString('latin1');
  if (!text.startsWith(SCHEME))
    throw new MeshError('BAD_CERTIFICATE', `the identity ${quoted(uri)} does not begin with ${SCHEME}`);
  return text.slice(SCHEME.length).split('/');
}

function segment(uri: Uint8Array, what: string, text: string | undefined): string {
  if (text === undefined || !isName(text))
    throw new MeshError('BAD_CERTIFICATE', `the identity ${quoted(uri)} has no valid ${what}`, {
      hint: 'mesh ids and names are 1 to 63 of a-z, 0-9 and - ; issue a new certificate with mesh-ca issue',
    });
  return text;
}

/**
 * Reads the identity of a peer from the bytes of its URI SAN.
 * @throws MeshError BAD_CERTIFICATE naming the part at fault
 */
export function parseSpiffeId(uri: Uint8Array): SpiffeId {
  const [meshId, role, name, ...more] = segments(uri);
  if (more.length > 0) throw new MeshError('BAD_CERTIFICATE', `the identity ${quoted(uri)} has too many segments`);
  const mesh = segment(uri, 'mesh id', meshId);
  if (role === undefined || !isRole(role))
    throw new MeshError('BAD_CERTIFICATE', `the identity ${quoted(uri)} has no role (one of ${ROLES.join(', ')})`);
  return { meshId: mesh, role, name: segment(uri, 'name', name) };
}

/** The same for the certificates of the authority. */
export function parseMeshUri(uri: Uint8Array): string {
  const [meshId, ...more] = segments(uri);
  if (more.length > 0)
    throw new MeshError('BAD_CERTIFICATE', `${quoted(uri)} is not the identity of a certificate authority`);
  return segment(uri, 'mesh id', meshId);
}
