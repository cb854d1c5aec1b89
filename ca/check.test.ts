/** The checking side against certificates that the issuing side never makes. It stands here because it needs a forger. */
import { type KeyObject, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import {
  chainFromPem,
  checkAuthority,
  checkPeer,
  fieldsOf,
  fingerprintOf,
  type PeerRules,
  readMeshId,
  verifyChain,
} from '../common/identity/check.js';
import { DerError, readChildren, readDer, TAG, writeDer, writeSequence } from '../common/identity/der.js';
import { type AlternativeName, NAME_TAGS, readCertificate } from '../common/identity/fields.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { EXTENDED_KEY_USAGE_OIDS, EXTENSION_OIDS } from '../common/identity/profile.js';
import { Authority, makeIssuer, makeRoot } from './authority.js';
import { randomSerial } from './policy.js';
import {
  basicConstraints,
  buildCertificate,
  type CertificateTemplate,
  dnsName,
  type ExtensionTemplate,
  extendedKeyUsage,
  ipName,
  keyUsage,
  nameDer,
  subjectAltName,
  toPem,
  uriName,
} from './x509/certificate.js';

const NOW_MS = Date.UTC(2026, 10, 20, 12);
const HOUR_MS = 3_600_000;
const root = makeRoot('lab', NOW_MS);
const issuer = makeIssuer(root.certificate, root.privateKey, NOW_MS);
const authority = new Authority({ root: root.certificate, issuer: issuer.certificate, issuerKey: issuer.privateKey });
const holder = makeKeyPair();
const { serverAuth, clientAuth } = EXTENDED_KEY_USAGE_OIDS;

interface Forgery {
  /** In place of the agent's, by OID; null leaves it out. */
  extensions?: Record<string, ExtensionTemplate | null>;
  more?: ExtensionTemplate[];
  names?: AlternativeName[];
  template?: Partial<CertificateTemplate>;
  signer?: KeyObject;
}

/** A good agent's certificate, but for what is said. */
function forge(forgery: Forgery = {}): X509Certificate {
  const good: Record<string, ExtensionTemplate | null> = {
    [EXTENSION_OIDS.basicConstraints]: basicConstraints(false),
    [EXTENSION_OIDS.keyUsage]: keyUsage(['digitalSignature']),
    [EXTENSION_OIDS.extendedKeyUsage]: extendedKeyUsage([clientAuth]),
    [EXTENSION_OIDS.subjectAltName]: subjectAltName(forgery.names ?? [uriName('spiffe://lab/agent/n1')]),
    ...forgery.extensions,
  };
  const extensions = [...Object.values(good), ...(forgery.more ?? [])].filter((extension) => extension !== null);
  const template = {
    serial: randomSerial(),
    issuerDer: fieldsOf(issuer.certificate).subjectDer,
    subjectDer: nameDer('lab', 'agent n1'),
    notBeforeMs: NOW_MS - HOUR_MS,
    notAfterMs: NOW_MS + HOUR_MS,
    publicKeyDer: holder.publicKeyDer,
    extensions,
    ...forgery.template,
  };
  return new X509Certificate(buildCertificate(template, forgery.signer ?? issuer.privateKey));
}

const rules: PeerRules = { meshId: 'lab', purpose: 'client', nowMs: NOW_MS };

function reasonOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof MeshError && error.code === 'BAD_CERTIFICATE') return error.message;
    throw error;
  }
  return 'accepted';
}

const uris = (...texts: string[]) => texts.map(uriName);
const omit = (name: keyof typeof EXTENSION_OIDS) => ({ extensions: { [EXTENSION_OIDS[name]]: null } });
const replace = (extension: ExtensionTemplate) => ({ extensions: { [extension.oid]: extension } });
const spki = (key: KeyObject): Buffer => key.export({ type: 'spki', format: 'der' });

test('the forger makes good certificates too', async (t) => {
  const certificate = forge();
  t.same(checkPeer(certificate, { ...rules, roles: ['agent'] }), {
    meshId: 'lab',
    role: 'agent',
    name: 'n1',
    serial: certificate.serialNumber.toLowerCase(),
    fingerprint: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
    notBeforeMs: NOW_MS - HOUR_MS,
    notAfterMs: NOW_MS + HOUR_MS,
  });
  t.equal(checkPeer(certificate.raw, rules).name, 'n1', 'from bytes as well');
});

const refused: [string, Forgery, RegExp, Partial<PeerRules>?][] = [
  ['no extended key usage', omit('extendedKeyUsage'), /extended key usage is nothing, and clientAuth/],
  ['one usage too many', replace(extendedKeyUsage([clientAuth, serverAuth])), /usage is clientAuth \+ serverAuth/],
  ['the same usage twice', replace(extendedKeyUsage([clientAuth, clientAuth])), /extended key usage/],
  ['anyExtendedKeyUsage', replace(extendedKeyUsage(['2.5.29.37.0'])), /usage is 2\.5\.29\.37\.0/],
  ['only serverAuth', replace(extendedKeyUsage([serverAuth])), /extended key usage is serverAuth/],
  ['CA:TRUE', replace(basicConstraints(true)), /CA bit is true/],
  ['CA:TRUE with path length', replace(basicConstraints(true, 0)), /CA bit is true/],
  ['no basic constraints', omit('basicConstraints'), /no basic constraints/],
  ['basic constraints not critical', replace({ ...basicConstraints(false), critical: false }), /not critical/],
  ['keyCertSign', replace(keyUsage(['digitalSignature', 'keyCertSign'])), /digitalSignature \+ keyCertSign/],
  ['keyEncipherment', replace(keyUsage(['digitalSignature', 'keyEncipherment'])), /keyEncipherment/],
  ['decipherOnly, in the second byte', replace(keyUsage(['digitalSignature', 'decipherOnly'])), /decipherOnly/],
  ['no key usage', omit('keyUsage'), /key usage is nothing/],
  [
    'key usage not critical',
    replace({ ...keyUsage(['digitalSignature']), critical: false }),
    /keyUsage is not critical/,
  ],
  [
    'an unknown critical extension',
    { more: [{ oid: '1.2.3.4', critical: true, value: Buffer.of(5, 0) }] },
    /1\.2\.3\.4/,
  ],
  ['an extension twice', { more: [keyUsage(['digitalSignature'])] }, /twice/],
  ['no alternative name, a common name only', omit('subjectAltName'), /0 URI alternative names/],
  ['only a host name', { names: [dnsName('n1')] }, /0 URI/],
  ['two URIs', { names: uris('spiffe://lab/agent/n1', 'spiffe://lab/operator/anna') }, /2 URI/],
  ['the same URI twice', { names: uris('spiffe://lab/agent/n1', 'spiffe://lab/agent/n1') }, /2 URI/],
  ['a NUL byte', { names: uris('spiffe://lab/agent/n1\0.evil') }, /no valid name/],
  ['a NUL byte in the mesh', { names: uris('spiffe://lab\0x/agent/n1') }, /no valid mesh id/],
  ['upper case', { names: uris('spiffe://lab/agent/N1') }, /no valid name/],
  [
    'a homoglyph',
    { names: [{ tag: NAME_TAGS.uri, bytes: Buffer.from('spiffe://lab/agent/\u0430') }] },
    /no valid name/,
  ],
  ['an unknown role', { names: uris('spiffe://lab/admin/n1') }, /has no role/],
  ['the identity of an authority', { names: uris('spiffe://lab') }, /has no role/],
  ['a host name beside an agent', { names: [...uris('spiffe://lab/agent/n1'), dnsName('localhost')] }, /host names/],
  [
    'an e-mail address',
    { names: [...uris('spiffe://lab/agent/n1'), { tag: 0x81, bytes: Buffer.from('a@b') }] },
    /foreign/,
  ],
  ['another mesh', { names: uris('spiffe://other/agent/n1') }, /belongs to the mesh other, and this is the mesh lab/],
  ['another role', {}, /may not stand here \(coordinator\)/, { roles: ['coordinator'] }],
  ['an agent as a server', {}, /cannot be used as a server/, { purpose: 'server' }],
  ["a coordinator's URI with an agent's usages", { names: uris('spiffe://lab/coordinator/c') }, /extended key usage/],
  [
    'expired',
    {},
    /has expired.*2026-11-20T11:00:00Z to 2026-11-20T13:00:00Z.*2026-11-20T14/,
    { nowMs: NOW_MS + 2 * HOUR_MS },
  ],
  ['not yet valid', {}, /not valid yet.*here it is 2026-11-20T10/, { nowMs: NOW_MS - 2 * HOUR_MS }],
  ['too long a life', { template: { notAfterMs: NOW_MS + 100 * 24 * HOUR_MS } }, /101 days, longer/],
  ['X.509 version 2', { template: { version: 2 } }, /version 2/],
  ['a negative serial', { template: { serial: Buffer.of(0x80) } }, /negative integer/],
  [
    'a weak key',
    { template: { publicKeyDer: spki(generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey) } },
    /1024 bits/,
  ],
  ['a key of another kind', { template: { publicKeyDer: spki(generateKeyPairSync('ed25519').publicKey) } }, /ed25519/],
];

test('every certificate outside the profile is refused, with the reason', async (t) => {
  for (const [what, forgery, reason, changed] of refused)
    t.match(
      reasonOf(() => checkPeer(forge(forgery), { ...rules, ...changed })),
      reason,
      what,
    );
  try {
    checkPeer(forge(), { ...rules, nowMs: 0 });
    t.fail('it was accepted');
  } catch (error) {
    t.match((error as MeshError).hint, /compare the clocks/);
  }
});

test('root and issuer are nobody on a connection', async (t) => {
  for (const certificate of [root.certificate, issuer.certificate])
    t.match(
      reasonOf(() => checkPeer(certificate, rules)),
      /has no role/,
    );
});

test('a coordinator carries host names, but only real ones', async (t) => {
  const coordinator = (...names: AlternativeName[]) =>
    forge({
      ...replace(extendedKeyUsage([serverAuth, clientAuth])),
      names: [...uris('spiffe://lab/coordinator/c'), ...names],
    });
  const check = (certificate: X509Certificate) =>
    reasonOf(() => checkPeer(certificate, { ...rules, purpose: 'server' }));
  t.equal(check(coordinator(dnsName('host.lan'), ipName('192.0.2.7'), ipName('fd00::7'))), 'accepted');
  t.match(check(coordinator(dnsName('host\0.lan'))), /not a host name/);
  t.match(check(coordinator(dnsName('*.lan'))), /not a host name/);
  t.match(check(coordinator({ tag: NAME_TAGS.ip, bytes: Buffer.alloc(5) })), /impossible size/);
});

test('damaged encodings', async (t) => {
  const { raw } = forge();
  t.match(
    reasonOf(() => checkPeer(Buffer.concat([raw, Buffer.of(0)]), rules)),
    /bytes follow the end/,
  );
  t.match(
    reasonOf(() => checkPeer(raw.subarray(0, -1), rules)),
    /cut off/,
  );
  t.match(
    reasonOf(() => checkPeer(Buffer.from('hello'), rules)),
    /does not parse/,
  );
  const [tbs, algorithm, signature] = readChildren(readDer(raw, TAG.sequence));
  if (!tbs || !algorithm || !signature) throw new Error('a certificate has three parts');
  const other = writeSequence(tbs.raw, writeSequence(writeDer(TAG.oid, Buffer.of(42, 3))), signature.raw);
  t.throws(() => readCertificate(other), DerError, 'inner and outer algorithm differ');
  const explicit = { ...basicConstraints(false), value: writeSequence(writeDer(TAG.boolean, Buffer.of(0))) };
  t.match(
    reasonOf(() => checkPeer(forge(replace(explicit)), rules)),
    /default value/,
  );
  // Whatever a flipped bit makes of it, the outcome is an identity or a refusal with a reason, never another failure.
  const outcomes = Array.from(raw, (byte, i) => {
    const flipped = Buffer.from(raw);
    flipped[i] = byte ^ 0x04;
    return reasonOf(() => checkPeer(flipped, rules));
  });
  t.ok(outcomes.filter((outcome) => outcome !== 'accepted').length > raw.length / 4);
  t.ok(outcomes.every((outcome) => outcome.length > 0));
});

test('a chain leads to the root, or it does not', async (t) => {
  const leaf = forge();
  const verify = (chain: X509Certificate[], top = root.certificate, nowMs = NOW_MS) =>
    reasonOf(() => verifyChain(chain, top, nowMs));
  t.equal(verify([leaf, issuer.certificate]), 'accepted');
  t.equal(verify([leaf, issuer.certificate, root.certificate]), 'accepted', 'the root may stand at the end');

  const stranger = makeRoot('lab', NOW_MS);
  const strangers = makeIssuer(stranger.certificate, stranger.privateKey, NOW_MS);
  t.match(verify([leaf, issuer.certificate], stranger.certificate), /does not lead to the root/);
  t.match(verify([leaf, strangers.certificate]), /does not lead to the root/);
  t.match(verify([forge({ signer: strangers.privateKey }), issuer.certificate]), /not signed by the issuer/);
  t.match(verify([leaf]), /0 intermediate/);
  t.match(verify([]), /no leaf/);
  t.match(verify([root.certificate]), /no leaf/);
  t.match(verify([leaf, issuer.certificate, issuer.certificate]), /2 intermediate/);
  t.match(verify([issuer.certificate, issuer.certificate]), /not signed by the issuer/);
  t.match(verify([leaf, issuer.certificate], issuer.certificate), /does not fit the profile/);
  t.match(verify([leaf, issuer.certificate], root.certificate, NOW_MS + 400 * 24 * HOUR_MS), /issuer .* has expired/);
  t.match(verify([leaf, issuer.certificate], root.certificate, NOW_MS - HOUR_MS), /root .* is not valid yet/);

  const asIssuer = forge();
  const below = forge({ template: { issuerDer: fieldsOf(asIssuer).subjectDer }, signer: holder.privateKey });
  t.match(verify([below, asIssuer]), /does not lead to the root/, 'a leaf used as issuer');
  t.match(verify([below, asIssuer, issuer.certificate]), /2 intermediate/, 'a leaf used as issuer below the real one');
});

test('an issuer outside its profile is refused in a chain', async (t) => {
  const issuerLike = (forgery: Forgery) =>
    forge({
      ...forgery,
      names: forgery.names ?? uris('spiffe://lab'),
      extensions: {
        [EXTENSION_OIDS.basicConstraints]: basicConstraints(true, 0),
        [EXTENSION_OIDS.keyUsage]: keyUsage(['keyCertSign', 'cRLSign']),
        [EXTENSION_OIDS.extendedKeyUsage]: null,
        ...forgery.extensions,
      },
      template: {
        issuerDer: fieldsOf(root.certificate).subjectDer,
        subjectDer: nameDer('lab', 'issuer'),
        publicKeyDer: issuer.publicKeyDer,
      },
      signer: root.privateKey,
    });
  const check = (forgery: Forgery): string => {
    const certificate = issuerLike(forgery);
    const leaf = forge({ template: { issuerDer: fieldsOf(certificate).subjectDer } });
    return reasonOf(() => verifyChain([leaf, certificate], root.certificate, NOW_MS));
  };
  t.equal(check({}), 'accepted');
  t.match(check(replace(basicConstraints(true))), /path length is unlimited/);
  t.match(check(replace(basicConstraints(true, 1))), /path length is 1/);
  t.match(check(replace(extendedKeyUsage([clientAuth]))), /extended key usage/);
  t.match(check({ names: uris('spiffe://other') }), /two meshes/);
  t.not(check(replace(keyUsage(['cRLSign']))), 'accepted');
  t.not(check(replace(basicConstraints(false))), 'accepted');
});

test('reading roots and chains', async (t) => {
  t.equal(readMeshId(root.certificate), 'lab');
  t.equal(readMeshId(root.certificate.raw), 'lab');
  t.match(
    reasonOf(() => readMeshId(issuer.certificate)),
    /not the root certificate/,
  );
  t.match(
    reasonOf(() => readMeshId(forge())),
    /not the identity of a certificate authority/,
  );
  t.equal(checkAuthority(root.certificate, 'root', NOW_MS), 'lab');
  t.equal(fingerprintOf(root.certificate), authority.rootFingerprint);
  const text = `a comment\n${toPem(forge().raw)}${authority.issuerPem}`;
  t.same(chainFromPem(text).map(({ raw }) => raw.length).length, 2);
  t.match(
    reasonOf(() => chainFromPem('')),
    /0 certificates/,
  );
  t.match(
    reasonOf(() => chainFromPem(authority.rootPem.repeat(9))),
    /9 certificates/,
  );
  t.match(
    reasonOf(() => chainFromPem('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----')),
    /certificate 1 does not parse/,
  );
});
