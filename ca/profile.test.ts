/**
 * The checking side against certificates that the issuing side never makes: each is decided by our own check, with the
 * reason it deserves, and no rule and no reason of the check is without a certificate that needs it.
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { MeshError } from '../common/errors.js';
import { chainFromPem, checkPresented, verifyChain } from '../common/identity/chain.js';
import {
  checkAuthority,
  checkPeer,
  fieldsOf,
  fingerprintOf,
  type PeerRules,
  profileProblem,
  readMeshId,
} from '../common/identity/check.js';
import type { Role } from '../common/identity/identity.js';
import { PROFILES } from '../common/identity/profile.js';
import { PROFILE_RULES } from '../common/identity/rules.js';
import { packageRoot } from '../common/package.js';
import { CHAINS } from '../test/support/forgeries/chains.js';
import { FORGERIES } from '../test/support/forgeries/index.js';
import { Forger } from '../test/support/forger.js';
import { toPem } from './x509/certificate.js';

const NOW_MS = Date.UTC(2026, 10, 20, 12);
const HOUR_MS = 3_600_000;
const forger = new Forger('lab', NOW_MS);
const roots = [forger.root.certificate];
const rulesFor = (role: Role): PeerRules => ({
  meshId: 'lab',
  roles: [role],
  purpose: role === 'coordinator' ? 'server' : 'client',
  nowMs: NOW_MS,
});

/** Everything the check has said. */
const said = new Set<string>();

function reasonOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== 'BAD_CERTIFICATE') throw error;
    said.add(error.message);
    return error.message;
  }
  return 'accepted';
}

const rows = FORGERIES.flatMap((row) =>
  (['agent', 'coordinator'] as const)
    .filter((role) => row.only === undefined || row.only === role)
    .map((role) => ({ ...row, role, der: forger.leaf(role, row.change).der })),
);

test('what the forger changes nothing about is good', async (t) => {
  for (const role of ['agent', 'coordinator'] as const) {
    const { der } = forger.leaf(role);
    const identity = checkPresented([new X509Certificate(der), forger.issuer.certificate], roots, rulesFor(role));
    t.match(identity, { meshId: 'lab', role, fingerprint: fingerprintOf(der), serial: fieldsOf(der).serial });
  }
});

test('each certificate outside the profile is refused with its reason, each on the border is not', async (t) => {
  t.ok(rows.length > 200);
  for (const { what, role, der, reason } of rows)
    t.match(
      reasonOf(() => checkPeer(der, rulesFor(role))),
      reason ?? 'accepted',
      `${what} (${role})`,
    );
});

test('no rule is idle: each refuses a certificate that no other would', async (t) => {
  const idle = new Set(PROFILE_RULES.map(({ name }) => name));
  const candidates = [
    ...rows.map(({ der, role }) => ({ der, kind: role })),
    ...CHAINS.flatMap(({ build }) =>
      build(forger, 'agent').above.map(({ raw }) => ({ der: raw, kind: 'issuer' as const })),
    ),
  ];
  for (const { der, kind } of candidates) {
    if (reasonOf(() => fieldsOf(der)) !== 'accepted') continue;
    const objections = PROFILE_RULES.filter(({ problem }) => problem(fieldsOf(der), PROFILES[kind]) !== undefined);
    if (objections.length === 1) idle.delete(objections[0]?.name ?? '');
  }
  t.strictSame([...idle], []);
});

test('who is at the other end: role, mesh, purpose, time', async (t) => {
  const { der } = forger.leaf('agent');
  const check = (rules: Partial<PeerRules>) => reasonOf(() => checkPeer(der, { ...rulesFor('agent'), ...rules }));
  t.equal(check({}), 'accepted');
  t.match(check({ meshId: 'other' }), /belongs to the mesh lab, and this is the mesh other/);
  t.match(check({ roles: ['coordinator', 'operator'] }), /may not stand here \(coordinator, operator\)/);
  t.match(check({ purpose: 'server' }), /cannot be used as a server/);
  t.match(check({ nowMs: NOW_MS + 2 * HOUR_MS }), /to 2026-11-20T13:00:00Z, and here it is 2026-11-20T14:00:00Z/);
  t.match(check({ nowMs: NOW_MS - 2 * HOUR_MS }), /not valid yet: .*here it is 2026-11-20T10:00:00Z; .* behind/);
  for (const { certificate } of [forger.root, forger.issuer])
    t.match(
      reasonOf(() => checkPeer(certificate, rulesFor('agent'))),
      /has no role/,
      'an authority is nobody on a connection',
    );
});

test('whatever a flipped bit makes of it, the outcome is an identity or a reason, never another failure', async (t) => {
  const { der } = forger.leaf('agent');
  const outcomes = [0x01, 0x04, 0x80].flatMap((bit) =>
    Array.from(der, (byte, at) => {
      const flipped = Buffer.from(der);
      flipped[at] = byte ^ bit;
      return reasonOf(() => checkPeer(flipped, rulesFor('agent')));
    }),
  );
  t.ok(outcomes.filter((outcome) => outcome !== 'accepted').length > der.length / 2);
});

test('a chain leads to the root, or it does not', async (t) => {
  const leaf = new X509Certificate(forger.leaf('agent').der);
  const [root, issuer] = [forger.root.certificate, forger.issuer.certificate];
  const verify = (chain: X509Certificate[], tops = roots, nowMs = NOW_MS) =>
    reasonOf(() => verifyChain(chain, tops, nowMs));
  t.equal(verify([leaf, issuer]), 'accepted');
  t.equal(verify([leaf, issuer, root]), 'accepted', 'the root may stand at the end');
  const stranger = new Forger('lab', NOW_MS);
  t.equal(verify([leaf, issuer], [stranger.root.certificate, root]), 'accepted', 'any of several roots will do');
  t.match(verify([leaf, issuer], [stranger.root.certificate]), /does not lead to the root/);
  t.match(verify([leaf, issuer], []), /does not lead to the root/);
  t.match(verify([]), /no leaf/);
  t.match(verify([root]), /no leaf/);
  t.match(verify([issuer, issuer]), /not signed by the issuer/);
  t.match(verify([leaf, issuer, issuer]), /2 intermediate/);
  t.match(verify([leaf, issuer], [issuer]), /0 intermediate/);
  t.match(verify([leaf, issuer], roots, NOW_MS + 400 * 24 * HOUR_MS), /issuer .* has expired/);
  t.match(verify([leaf, issuer], roots, NOW_MS - HOUR_MS), /root .* is not valid yet/);
  t.match(
    reasonOf(() => checkPresented([], roots, rulesFor('agent'))),
    /no certificate was presented/,
  );
  // Crossed: a root that somebody else signed, and an authority that stands where the leaf belongs.
  const crossed = forger.authorityBelow(stranger.root, () => ({}), 'root');
  const below = forger.authorityBelow(crossed);
  const borne = new X509Certificate(
    forger.leaf('agent', () => ({ issuer: fieldsOf(below.certificate).subjectDer, signer: below.privateKey })).der,
  );
  t.match(verify([borne, below.certificate], [crossed.certificate]), /root certificate is not signed by itself/);
  t.match(
    verify([forger.authorityBelow(forger.issuer).certificate, issuer]),
    /leaf certificate is itself an authority/,
  );
});

for (const role of ['agent', 'coordinator'] as const)
  test(`crooked chains above a good ${role}`, async (t) => {
    for (const { what, build, reason } of CHAINS) {
      const { leaf, above } = build(forger, role);
      const chain = [new X509Certificate(leaf.der), ...above];
      t.equal(
        reasonOf(() => checkPeer(leaf.der, rulesFor(role))),
        'accepted',
        `${what}: the leaf alone is good`,
      );
      for (const presented of [chain, [...chain, forger.root.certificate]])
        t.match(
          reasonOf(() => checkPresented(presented, roots, rulesFor(role))),
          new RegExp(`was not issued by this mesh: .*(?:${reason.source})`),
          what,
        );
    }
  });

test('reading roots and chains', async (t) => {
  t.equal(readMeshId(forger.root.certificate), 'lab');
  t.equal(readMeshId(forger.root.certificate.raw), 'lab');
  t.match(
    reasonOf(() => readMeshId(forger.issuer.certificate)),
    /not the root certificate/,
  );
  t.match(
    reasonOf(() => readMeshId(forger.leaf('agent').der)),
    /not the identity of a certificate authority/,
  );
  t.equal(checkAuthority(forger.root.certificate, 'root', NOW_MS), 'lab');
  t.equal(profileProblem(fieldsOf(forger.issuer.certificate), 'issuer'), undefined);
  const text = `a comment\n${toPem(forger.leaf('agent').der)}${forger.authority.issuerPem}`;
  t.equal(chainFromPem(text).length, 2);
  for (const [pem, reason] of [
    ['', /0 certificates/],
    [forger.authority.rootPem.repeat(9), /9 certificates/],
    ['-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----', /certificate 1 does not parse/],
  ] as const)
    t.match(
      reasonOf(() => chainFromPem(pem)),
      reason,
    );
});

/** What a message says wherever it is filled in. */
const pattern = (template: string): RegExp =>
  new RegExp(
    template
      .replace(/\$\{(?:[^{}]|\{[^{}]*\})*\}/g, '\0')
      .replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
      .replaceAll('\0', '.*'),
  );

test('no reason is idle: each sentence of the check was said to some certificate above', async (t) => {
  const sources = ['der', 'fields', 'spiffe', 'check', 'chain'].map(
    (name) =>
      // The writing half of der.ts says nothing to a certificate.
      readFileSync(join(packageRoot, `common/identity/${name}.ts`), 'utf8').split('\nexport function writeDer')[0],
  );
  const sentences = [
    ...sources
      .join('\n')
      .matchAll(/(?:DerError|refused|'BAD_CERTIFICATE',)[(\s]+(?:'((?:[^'\\]|\\.)*)'|`([^`]*)`|"([^"]*)")/g),
  ].map(([, single, template, double]) => single ?? template ?? double ?? '');
  t.ok(sentences.length > 50);
  t.strictSame(
    sentences.filter((sentence) => ![...said].some((reason) => pattern(sentence).test(reason))),
    [],
  );
});
