/**
 * Chains: who presented what, and whether it leads to a root of the mesh. Both ends of every connection, whoever joins and
 * `mesh-ca inspect` judge a chain here. TLS has verified it too, where it was told the roots; this adds what TLS leaves
 * open (exactly one intermediate, of our profile and of the same mesh) and gives reasons that people can read.
 */
import { X509Certificate } from 'node:crypto';
import type { DetailedPeerCertificate } from 'node:tls';
import { MeshError } from '../errors.js';
import { checkAuthority, checkPeer, fieldsOf, type PeerRules } from './check.js';
import type { Identity } from './identity.js';

/** Longer than any chain of ours, and a bound on what a peer may make us read. */
const CHAIN_MAX = 8;

const refused = (message: string, hint?: string): MeshError =>
  new MeshError('BAD_CERTIFICATE', message, hint === undefined ? {} : { hint });

/**
 * The certificates a peer presented, leaf first, as `getPeerCertificate(true)` strings them together; none when it
 * presented nothing.
 */
export function presentedBy(leaf: DetailedPeerCertificate | undefined): X509Certificate[] {
  const chain: X509Certificate[] = [];
  for (let link = leaf; link?.raw && chain.length < CHAIN_MAX; link = link.issuerCertificate) {
    if (chain.at(-1)?.raw.equals(link.raw)) break;
    chain.push(new X509Certificate(link.raw));
  }
  return chain;
}

/**
 * Who presented this chain, leaf first: the leaf against the profile, because that gives the better reason, then the way
 * to one of the roots.
 * @throws MeshError BAD_CERTIFICATE with the one reason why it is refused
 */
export function checkPresented(
  chain: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  rules: PeerRules,
): Identity {
  const [leaf] = chain;
  if (!leaf) throw refused('no certificate was presented');
  const identity = checkPeer(leaf, rules);
  try {
    verifyChain(chain, roots, rules.nowMs);
  } catch (error) {
    if (!(error instanceof MeshError)) throw error;
    const whose = `the certificate of ${identity.role} ${identity.name}`;
    throw refused(`${whose} was not issued by this mesh: ${error.message}`, error.hint);
  }
  return identity;
}

const signedBy = (certificate: X509Certificate, issuer: X509Certificate): boolean =>
  certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);

/**
 * That a chain (leaf first) leads to one of `roots`, of which only the fingerprints may have been known before. Checks
 * every signature, the profile and dates of root and issuer, that all belong to one mesh, and that the leaf is no
 * authority; who the leaf is, is `checkPeer`'s to say. The root may stand at the end of the chain or be left out.
 * @throws MeshError BAD_CERTIFICATE
 */
export function verifyChain(chain: readonly X509Certificate[], roots: readonly X509Certificate[], nowMs: number): void {
  const [leaf, ...above] = roots.some(({ raw }) => chain.at(-1)?.raw.equals(raw)) ? chain.slice(0, -1) : chain;
  if (!leaf) throw refused('the chain has no leaf certificate');
  const [issuer, ...more] = above;
  if (!issuer || more.length > 0)
    throw refused(`the chain has ${above.length} intermediate certificates; it has exactly one in a mesh`);
  const root = roots.find((candidate) => signedBy(issuer, candidate));
  if (!root) throw refused('the chain does not lead to the root certificate of this mesh', 'is this the right mesh?');
  const meshId = checkAuthority(root, 'root', nowMs);
  if (!signedBy(root, root)) throw refused('the root certificate is not signed by itself');
  if (checkAuthority(issuer, 'issuer', nowMs) !== meshId)
    throw refused('the issuer and the root of the chain belong to two meshes');
  if (!signedBy(leaf, issuer)) throw refused('the leaf certificate is not signed by the issuer beside it');
  if (fieldsOf(leaf).basicConstraints?.ca !== false) throw refused('the leaf certificate is itself an authority');
}

/**
 * Every certificate of a PEM text, in order.
 * @throws MeshError BAD_CERTIFICATE when there is none, more than 8, or one that does not parse
 */
export function chainFromPem(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0 || blocks.length > CHAIN_MAX)
    throw refused(`there are ${blocks.length} certificates where 1 to ${CHAIN_MAX} belong`);
  return blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (error) {
      throw new MeshError('BAD_CERTIFICATE', `certificate ${index + 1} does not parse`, { cause: error });
    }
  });
}
