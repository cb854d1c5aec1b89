/**
 * Chains: who presented what, and whether it leads to a root of the mesh. Both ends of every connection, whoever joins and
 * `mesh-ca inspect` judge a chain here. TLS has verified it too, where it was told the roots; this adds what TLS leaves
 * open (exactly one intermediate, of our profile and of the same mesh) and gives reasons that people can read.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import type { DetailedPeerCertificate, TLSSocket } from 'node:tls';
import { MeshError } from '../errors.js';
import { RecentSet } from '../recent-set.js';
import {
  type Authority,
  checkAuthorityDates,
  checkPeer,
  fieldsOf,
  fingerprintOf,
  type PeerRules,
  readAuthority,
} from './check.js';
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
    chain.push(certificateOf(link.raw));
  }
  return chain;
}

/**
 * The same of a socket that nobody has asked yet: Node gives what is above the leaf away only once. Much cheaper, because
 * no text is made of anything.
 */
export function presentedOn(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  for (let link = socket.getPeerX509Certificate(); link && chain.length < CHAIN_MAX; link = link.issuerCertificate)
    chain.push(known(link));
  return chain;
}

/** A mesh has few coordinators, and each shows the same chain on every connection: it is read once. */
const presented = new RecentSet<string, X509Certificate>(32);

function certificateOf(der: Buffer): X509Certificate {
  const digest = fingerprintOf(der);
  const certificate = presented.touch(digest) ?? new X509Certificate(der);
  presented.put(digest, certificate);
  return certificate;
}

/** The object of the same bytes that is here already: what was found out about it is known by it. */
function known(certificate: X509Certificate): X509Certificate {
  const digest = fingerprintOf(certificate);
  const first = presented.touch(digest) ?? certificate;
  presented.put(digest, first);
  return first;
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

/** An issuer and the root that signed it, with everything about them checked that their bytes decide. */
interface KnownIssuer {
  root: Authority;
  issuer: Authority;
  publicKey: KeyObject;
}

/**
 * Issuers that were good, by the digests of their bytes and their root's. Every connection of a mesh shows one of a few,
 * and what was found of it is true of the same bytes for ever, except for the dates, which are asked each time. Only good
 * ones are kept, and no more than a rotation of several coordinators has; a chain that brings its own root makes room for
 * itself, and costs the others one look.
 */
const knownIssuers = new RecentSet<string, KnownIssuer>(32);
/** Roots are the same objects for as long as they are trusted. */
const digests = new WeakMap<X509Certificate, string>();

function digestOf(root: X509Certificate): string {
  let digest = digests.get(root);
  if (digest === undefined) digests.set(root, (digest = fingerprintOf(root)));
  return digest;
}

/** Whose signature a leaf was found to bear: keys are the objects of the issuers that are known. */
const signers = new WeakMap<X509Certificate, KeyObject>();

/** The dates of both are checked when this returns. @throws MeshError BAD_CERTIFICATE */
function issuerOf(issuer: X509Certificate, roots: readonly X509Certificate[], nowMs: number): KnownIssuer {
  const digest = fingerprintOf(issuer);
  for (const root of roots) {
    const known = knownIssuers.touch(`${digest}/${digestOf(root)}`);
    if (!known) continue;
    checkAuthorityDates(known.root, nowMs);
    checkAuthorityDates(known.issuer, nowMs);
    return known;
  }
  const root = roots.find((candidate) => signedBy(issuer, candidate));
  if (!root) throw refused('the chain does not lead to the root certificate of this mesh', 'is this the right mesh?');
  const found = { root: readAuthority(root, 'root') };
  checkAuthorityDates(found.root, nowMs);
  if (!signedBy(root, root)) throw refused('the root certificate is not signed by itself');
  const known = { ...found, issuer: readAuthority(issuer, 'issuer'), publicKey: issuer.publicKey };
  checkAuthorityDates(known.issuer, nowMs);
  if (known.issuer.meshId !== known.root.meshId)
    throw refused('the issuer and the root of the chain belong to two meshes');
  knownIssuers.put(`${digest}/${digestOf(root)}`, known);
  return known;
}

/** That one of `roots` vouches for this issuer now. @throws MeshError BAD_CERTIFICATE */
export function checkIssuer(issuer: X509Certificate, roots: readonly X509Certificate[], nowMs: number): void {
  issuerOf(issuer, roots, nowMs);
}

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
  const { publicKey } = issuerOf(issuer, roots, nowMs);
  if (signers.get(leaf) !== publicKey && (!leaf.checkIssued(issuer) || !leaf.verify(publicKey)))
    throw refused('the leaf certificate is not signed by the issuer beside it');
  signers.set(leaf, publicKey);
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
