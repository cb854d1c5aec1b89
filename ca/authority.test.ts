import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { test } from 'tap';
import { chainFromPem, verifyChain } from '../common/identity/chain.js';
import { checkPeer, fieldsOf, profileProblem } from '../common/identity/check.js';
import { makeCsr } from '../common/identity/csr.js';
import { ROLES, type Role } from '../common/identity/identity.js';
import { makeKeyPair } from '../common/identity/keys.js';
import { BACKDATE_MS, PROFILES, renewalAtMs } from '../common/identity/profile.js';
import { Authority, issuerRenewalDue, makeIssuer, makeRoot } from './authority.js';
import { buildPkcs12 } from './x509/pkcs12.js';

const NOW_MS = Math.floor(Date.now() / 1000) * 1000;
const DAY_MS = 86_400_000;

function makeAuthority(nowMs = NOW_MS) {
  const root = makeRoot('lab', nowMs);
  const issuer = makeIssuer(root.certificate, root.privateKey, nowMs);
  const parts = { root: root.certificate, issuer: issuer.certificate, issuerKey: issuer.privateKey };
  return { authority: new Authority(parts), parts, root, issuer };
}

const { authority, parts } = makeAuthority();

function issue(role: Role, name = 'n1') {
  const pair = makeKeyPair();
  const issued = authority.issue({ csrDer: makeCsr(pair.privateKey, 'ignored'), role, name, nowMs: NOW_MS });
  return { ...issued, key: pair.privateKeyPem, pair };
}

function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
const noOpenssl = hasOpenssl() ? false : 'openssl is not installed';

test('every role: issued as the table says, accepted by the check, its chain leads to the root', async (t) => {
  for (const role of ROLES) {
    const issued = issue(role);
    const chain = chainFromPem(issued.pem);
    const [leaf] = chain;
    if (!leaf) throw new Error('no leaf');
    const identity = checkPeer(leaf, { meshId: 'lab', roles: [role], purpose: 'client', nowMs: NOW_MS });
    t.match(identity, { role, name: 'n1', serial: issued.serial, fingerprint: issued.fingerprint });
    t.equal(profileProblem(fieldsOf(leaf), role), undefined);
    verifyChain(chain, [authority.root], NOW_MS);
    t.equal(issued.notBeforeMs, NOW_MS - BACKDATE_MS, `${role} is backdated`);
    const endMs = Math.min(NOW_MS + PROFILES[role].lifetimeMs, fieldsOf(authority.issuer).notAfterMs);
    t.equal(issued.notAfterMs, endMs, `${role} lives its time`);
    t.match(issued.serial, /^4d[0-9a-f]{32}$/);
    const server = () => checkPeer(leaf, { meshId: 'lab', purpose: 'server', nowMs: NOW_MS });
    if (role === 'coordinator') t.equal(server().role, 'coordinator');
    else t.throws(server, { code: 'BAD_CERTIFICATE' }, `${role} is no server`);
  }
});

test('openssl verifies every role', { skip: noOpenssl }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'ca.crt'), authority.rootPem);
  for (const role of ROLES) {
    const path = join(folder, `${role}.crt`);
    writeFileSync(path, issue(role).pem);
    const purpose = role === 'coordinator' ? 'sslserver' : 'sslclient';
    const args = ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', join(folder, 'ca.crt')];
    t.match(execFileSync('openssl', [...args, '-untrusted', path, path], { encoding: 'utf8' }), /: OK/);
  }
});

interface Handshake {
  /** What each side saw of the other. */
  server: tls.TLSSocket;
  client: tls.TLSSocket;
}

async function handshake(server: tls.SecureContextOptions, client: tls.SecureContextOptions): Promise<Handshake> {
  const common = { ca: authority.rootPem, minVersion: 'TLSv1.3' as const, rejectUnauthorized: false };
  const listener = tls.createServer({ ...common, ...server, requestCert: true });
  await once(listener.listen(0, '127.0.0.1'), 'listening');
  const accepted = once(listener, 'secureConnection');
  const socket = tls.connect({ ...common, ...client, port: (listener.address() as AddressInfo).port });
  await once(socket, 'secureConnect');
  const [peer] = (await accepted) as [tls.TLSSocket];
  listener.close();
  return { server: peer, client: socket };
}

test('real TLS 1.3 connections, both ways', async (t) => {
  const coordinator = issue('coordinator', 'c1');
  for (const role of ['agent', 'operator', 'metrics', 'coordinator'] as const) {
    const other = issue(role);
    const { server, client } = await handshake(
      { cert: coordinator.pem, key: coordinator.key },
      { cert: other.pem, key: other.key },
    );
    t.equal(server.authorized, true, `the coordinator's TLS trusts the chain of ${role}`);
    t.equal(client.getProtocol(), 'TLSv1.3');
    const seen = server.getPeerX509Certificate();
    const served = client.getPeerX509Certificate();
    if (!seen || !served) throw new Error('a certificate is missing');
    t.match(checkPeer(seen, { meshId: 'lab', purpose: 'client', nowMs: NOW_MS }), { role, name: 'n1' });
    const rules = { meshId: 'lab', roles: ['coordinator'], purpose: 'server', nowMs: NOW_MS } as const;
    t.equal(checkPeer(served, rules).name, 'c1');
    client.destroy();
    server.destroy();
  }
});

test('a PKCS#12 file opens in TLS and in openssl', async (t) => {
  const { pem, pair } = issue('operator', 'anna');
  const chain = [...chainFromPem(pem), authority.root];
  const password = 'correct horse: battery/staple';
  const pfx = buildPkcs12({ key: pair.privateKey, chain, friendlyName: 'anna', password });
  const coordinator = issue('coordinator', 'c1');
  const { server, client } = await handshake(
    { cert: coordinator.pem, key: coordinator.key },
    { pfx, passphrase: password },
  );
  t.equal(server.authorized, true);
  const seen = server.getPeerX509Certificate();
  t.equal(seen && checkPeer(seen, { meshId: 'lab', purpose: 'client', nowMs: NOW_MS }).name, 'anna');
  client.destroy();
  server.destroy();
  t.throws(() => tls.createSecureContext({ pfx, passphrase: 'wrong password' }), /mac verify/);
  for (const bad of ['short', '', 'p\u00e4ssw\u00f6rd-lang'])
    t.throws(() => buildPkcs12({ key: pair.privateKey, chain, friendlyName: 'a', password: bad }), { code: 'USAGE' });
  if (noOpenssl) return t.comment(noOpenssl);
  const said = execFileSync('openssl', ['pkcs12', '-nodes', '-passin', `pass:${password}`], {
    input: pfx,
    encoding: 'utf8',
  });
  t.equal(said.match(/BEGIN CERTIFICATE/g)?.length, 3);
  t.match(said, /friendlyName: anna/);
  t.match(said, /BEGIN PRIVATE KEY/);
});

test('a request gets nothing but what its row of the table allows', async (t) => {
  const csrDer = makeCsr(makeKeyPair().privateKey, 'x');
  const ask = (changes: object) => () =>
    authority.issue({ csrDer, role: 'agent', name: 'n1', nowMs: NOW_MS, ...changes });
  t.throws(ask({ name: 'N1' }), { code: 'BAD_NAME' });
  t.throws(ask({ name: '../n1' }), { code: 'BAD_NAME' });
  t.throws(ask({ role: 'root' }), { code: 'USAGE' });
  t.throws(ask({ role: 'constructor' }), { code: 'USAGE' });
  t.throws(ask({ lifetimeMs: 91 * DAY_MS }), { code: 'USAGE', message: /at most 90 days/ });
  t.throws(ask({ lifetimeMs: 0 }), { code: 'USAGE' });
  t.throws(ask({ lifetimeMs: Number.NaN }), { code: 'USAGE' });
  t.throws(ask({ dnsNames: ['localhost'] }), { code: 'USAGE', message: /no host names/ });
  const coordinator = { role: 'coordinator', name: 'c' };
  t.throws(ask({ ...coordinator, dnsNames: ['UPPER'] }), { code: 'USAGE' });
  t.throws(ask({ ...coordinator, ipAddresses: ['fe80::1%eth0'] }), { code: 'USAGE' });
  t.throws(ask({ ...coordinator, ipAddresses: ['300.1.1.1'] }), { code: 'USAGE' });
  t.throws(ask({ ...coordinator, dnsNames: Array.from({ length: 65 }, (_, i) => `h${i}`) }), { code: 'USAGE' });
  t.throws(ask({ csrDer: undefined }), { code: 'BAD_CERTIFICATE', message: /no key/ });
  const weak = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ type: 'spki', format: 'der' });
  t.throws(ask({ csrDer: undefined, publicKeyDer: weak }), { code: 'BAD_CERTIFICATE', message: /1024/ });
});

test('the names and addresses of a coordinator', async (t) => {
  const issued = authority.issue({
    publicKeyDer: makeKeyPair().publicKeyDer,
    role: 'coordinator',
    name: 'c',
    dnsNames: ['localhost', 'host.lan', 'localhost'],
    ipAddresses: ['127.0.0.1', '::1', 'fd00::1:2', '::ffff:192.0.2.1'],
    nowMs: NOW_MS,
  });
  const leaf = new X509Certificate(issued.pem);
  for (const host of ['localhost', 'host.lan']) t.equal(leaf.checkHost(host), host);
  for (const ip of ['127.0.0.1', '::1', 'fd00::1:2', '::ffff:192.0.2.1']) t.equal(leaf.checkIP(ip), ip);
  t.equal(leaf.checkHost('other.lan'), undefined);
  t.equal(leaf.checkIP('127.0.0.2'), undefined);
});

test('nothing outlives the issuer, and an expired issuer signs nothing', async (t) => {
  const issuerEndMs = fieldsOf(authority.issuer).notAfterMs;
  const ask = (nowMs: number) =>
    authority.issue({ publicKeyDer: makeKeyPair().publicKeyDer, role: 'metrics', name: 'm', nowMs });
  t.equal(ask(issuerEndMs - DAY_MS).notAfterMs, issuerEndMs);
  t.throws(() => ask(issuerEndMs), { code: 'BAD_CERTIFICATE', message: /issuer is valid from/ });
  t.throws(() => ask(NOW_MS - DAY_MS), { code: 'BAD_CERTIFICATE' });
});

test('an authority of parts that do not belong together is refused', async (t) => {
  const other = makeAuthority().parts;
  t.throws(() => new Authority({ ...parts, issuerKey: other.issuerKey }), { code: 'BAD_CERTIFICATE' });
  t.throws(() => new Authority({ ...parts, root: other.root }), { code: 'BAD_CERTIFICATE' });
  t.throws(() => new Authority({ ...parts, issuer: parts.root }), { code: 'BAD_CERTIFICATE' });
  t.throws(() => new Authority({ ...parts, root: parts.issuer }), { code: 'BAD_CERTIFICATE' });
  t.throws(() => makeRoot('Not A Name', NOW_MS), { code: 'BAD_NAME' });
});

test('renewal is due between 50 and 80 % of life, always at the same moment for one certificate', async (t) => {
  const { notBeforeMs, notAfterMs } = fieldsOf(authority.issuer);
  const at = (share: number) => notBeforeMs + BACKDATE_MS + (notAfterMs - notBeforeMs - BACKDATE_MS) * share;
  t.equal(issuerRenewalDue(authority.issuer, at(0.499)), false);
  t.equal(issuerRenewalDue(authority.issuer, at(0.801)), true);
  const due = (fingerprint: string) => renewalAtMs({ notBeforeMs, notAfterMs, fingerprint });
  t.equal(due('0'.repeat(64)), Math.floor(at(0.5)));
  t.ok(due('f'.repeat(64)) > at(0.799) && due('f'.repeat(64)) <= at(0.8));
  t.equal(due('7abc'.repeat(16)), due('7abc'.repeat(16)));
});
