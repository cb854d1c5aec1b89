/** `mesh-ca` as people run it: a real process, its output, its files and its exit codes. */
import { execFile } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { chainFromPem, verifyChain } from '../common/identity/chain.js';
import { checkPeer } from '../common/identity/check.js';
import { runProgram } from '../common/program.js';
import { readPrivateKeyFile } from './keys.js';
import { makeCaProgram } from './program.js';

process.stdout.setMaxListeners(0);

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));
const ROOT = fileURLToPath(new URL('..', import.meta.url));

interface Run {
  code: number;
  stdout: string;
  stderr: string;
}

function run(args: string[], environment: NodeJS.ProcessEnv = {}): Promise<Run> {
  const env = {
    PATH: process.env.PATH,
    HOME: tmpdir(),
    MESH_HOME: join(tmpdir(), 'no-such-mesh-home'),
    ...environment,
  };
  return new Promise((resolve) => {
    execFile(process.execPath, ['--import=tsx', MAIN, ...args], { env, cwd: ROOT }, (error, stdout, stderr) => {
      const code = error ? Number(error.code) : 0;
      resolve({ code, stdout, stderr });
    });
  });
}

/**
 * The same command inside this process: starting fifty processes proves nothing that starting ten does not. Streams,
 * environment and exit code are put back.
 */
async function runHere(t: Test, args: string[], environment: NodeJS.ProcessEnv = {}): Promise<Run> {
  const saved = { env: process.env, exitCode: process.exitCode };
  const stdout = t.capture(process.stdout, 'write', () => true);
  const stderr = t.capture(process.stderr, 'write', () => true);
  process.env = { ...environment, MESH_HOME: join(tmpdir(), 'no-such-mesh-home'), HOME: tmpdir() };
  process.exitCode = 0;
  try {
    await runProgram(
      makeCaProgram(() => import('./remote.js')),
      ['node', 'mesh-ca', ...args],
    );
    const text = (calls: { args: unknown[] }[]) => calls.map((call) => String(call.args[0])).join('');
    return { code: Number(process.exitCode), stdout: text(stdout()), stderr: text(stderr()) };
  } finally {
    stdout.restore();
    stderr.restore();
    process.env = saved.env;
    process.exitCode = saved.exitCode;
  }
}

const json = async (t: Test, args: string[]): Promise<Record<string, unknown>> => {
  const done = await runHere(t, [...args, '--json']);
  if (done.code !== 0) throw new Error(`mesh-ca ${args.join(' ')}: ${done.stderr}`);
  return JSON.parse(done.stdout) as Record<string, unknown>;
};

async function makeCa(t: Test) {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-ca '));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const dir = join(folder, 'ca');
  const made = await json(t, ['init', '--dir', dir, '--mesh-id', 'lab']);
  return { folder, dir, made };
}

test('from init to revoke', async (t) => {
  const { folder, dir, made } = await makeCa(t);
  t.match(made, { meshId: 'lab', directory: dir, fingerprint: /^[0-9a-f]{64}$/, notAfter: /^20/ });
  const out = join(folder, 'c1');
  const issued = await json(t, [
    'issue',
    'c1',
    '--role',
    'coordinator',
    '--out',
    out,
    '--dir',
    dir,
    '--host',
    'mesh.lan',
  ]);
  t.match(issued, { name: 'c1', role: 'coordinator', identity: 'spiffe://lab/coordinator/c1' });
  t.same(readdirSync(out).sort(), ['c1.crt', 'c1.key', 'ca.crt']);
  t.equal(statSync(join(out, 'c1.key')).mode & 0o777, 0o600);
  const chain = chainFromPem(readFileSync(join(out, 'c1.crt'), 'utf8'));
  verifyChain(chain, [new X509Certificate(readFileSync(join(out, 'ca.crt')))], Date.now());
  const [leaf] = chain;
  t.equal(leaf?.checkHost('mesh.lan'), 'mesh.lan');
  t.ok(leaf?.checkPrivateKey(readPrivateKeyFile(join(out, 'c1.key'))));

  const again = await runHere(t, ['issue', 'c1', '--role', 'coordinator', '--out', out, '--dir', dir]);
  t.match(again, { code: 1, stdout: '', stderr: /c1\.crt exists already/ });
  const taken = await runHere(t, ['issue', 'c1', '--role', 'coordinator', '--out', join(folder, 'x'), '--dir', dir]);
  t.match(taken, { code: 1, stderr: /has a certificate already/ });
  t.same(readdirSync(join(folder, 'x')), [], 'nothing half-made');

  const renewed = await json(t, ['renew', 'c1', '--out', out, '--force', '--dir', dir]);
  t.not(renewed.serial, issued.serial);
  const [second] = chainFromPem(readFileSync(join(out, 'c1.crt'), 'utf8'));
  t.equal(second?.checkHost('mesh.lan'), 'mesh.lan', 'the names are kept');
  t.ok(second?.checkPrivateKey(readPrivateKeyFile(join(out, 'c1.key'))), 'with a new key');
  const files = ['--cert', join(out, 'c1.crt'), '--key', join(out, 'c1.key')];
  await json(t, ['renew', ...files, '--out', join(folder, 'y'), '--dir', dir, '--days', '3']);

  const listed = (await json(t, ['list', '--dir', dir])) as { items: { serial: string; revokedAt: unknown }[] };
  t.equal(listed.items.length, 3);
  t.same(listed.items[0], {
    ...{ serial: issued.serial, role: 'coordinator', name: 'c1', fingerprint: issued.fingerprint },
    ...{ notBefore: issued.notBefore, notAfter: issued.notAfter, revokedAt: null },
  });
  const revoked = (await json(t, ['revoke', 'c1', '--dir', dir])) as { revoked: object[] };
  t.equal(revoked.revoked.length, 3);
  t.match(await runHere(t, ['revoke', 'c1', '--dir', dir]), {
    code: 0,
    stdout: /was revoked before/,
  });
  t.match(await runHere(t, ['renew', 'c1', '--out', join(folder, 'z'), '--dir', dir]), {
    code: 4,
    stderr: /is revoked/,
  });
  t.match(await runHere(t, ['list', '--dir', dir]), { code: 0, stdout: /c1 +coordinator +4d[0-9a-f]{32} .*revoked/ });

  const exported = await runHere(t, ['export', '--dir', dir]);
  t.equal(exported.stdout, readFileSync(join(dir, 'ca.crt'), 'utf8'));
});

test('as a real process', async (t) => {
  const { folder, dir } = await makeCa(t);
  const out = join(folder, 'n1');
  const issued = await run(['issue', 'n1', '--role', 'agent', '--out', out, '--dir', dir]);
  t.match(issued, { code: 0, stderr: '', stdout: /^issued spiffe:\/\/lab\/agent\/n1\nserial 4d/ });
  t.match(await run(['inspect', join(out, 'n1.crt'), '--json']), { code: 0, stdout: /^\{"certificates":.*\}\n$/ });
  t.match(await run(['renew', 'n2', '--out', out, '--dir', dir]), {
    code: 5,
    stdout: '',
    stderr: /^mesh-ca: no certificate was issued here to "n2"; list them: .*\n$/,
  });
});

test('PKCS#12: the password from a file, the environment, or shown once', async (t) => {
  const { folder, dir } = await makeCa(t);
  const issue = (name: string, ...more: string[]) => [
    'issue',
    name,
    '--role',
    'operator',
    '--out',
    join(folder, name),
    '--dir',
    dir,
    '--p12',
    ...more,
  ];
  const opens = (name: string, passphrase: string) => {
    const path = join(folder, name, `${name}.p12`);
    t.equal(statSync(path).mode & 0o777, 0o600);
    return tls.createSecureContext({ pfx: readFileSync(path), passphrase });
  };
  writeFileSync(join(folder, 'password'), 'from the file\n');
  t.equal((await runHere(t, issue('a', '--p12-password-file', join(folder, 'password')))).code, 0);
  t.ok(opens('a', 'from the file'));
  t.equal((await runHere(t, issue('b'), { MESH_P12_PASSWORD: 'from the environment' })).code, 0);
  t.ok(opens('b', 'from the environment'));
  const made = await runHere(t, issue('c', '--json'));
  const password = /only this once: (\S{20})$/m.exec(made.stderr)?.[1] ?? '';
  t.ok(opens('c', password));
  t.notOk(made.stdout.includes(password));
  t.match(await runHere(t, issue('d'), { MESH_P12_PASSWORD: 'short' }), { code: 2, stderr: /8 to 128/ });
  t.match(await runHere(t, issue('e', '--p12-password-file', '/no/such/file')), { code: 2, stderr: /password file/ });
  t.notOk(existsSync(join(folder, 'd', 'd.key')));
});

test('inspect says what it is and whether it fits', async (t) => {
  const { folder, dir } = await makeCa(t);
  const out = join(folder, 'n1');
  await json(t, ['issue', 'n1', '--role', 'agent', '--out', out, '--dir', dir]);
  const shown = await json(t, ['inspect', join(out, 'n1.crt'), '--ca', join(dir, 'ca.crt')]);
  t.match(shown, {
    certificates: [
      { kind: 'agent', identity: 'spiffe://lab/agent/n1', fits: true, reason: null, extendedKeyUsage: ['clientAuth'] },
      { kind: 'issuer', ca: true, pathLength: 0, fits: true },
    ],
    chain: { trusted: true, reason: null },
  });
  t.match(await runHere(t, ['inspect', join(dir, 'ca.crt')]), { code: 0, stdout: /fits \(root\)/ });
  const other = await makeCa(t);
  t.match(await runHere(t, ['inspect', join(out, 'n1.crt'), '--ca', join(other.dir, 'ca.crt')]), {
    code: 1,
    stdout: /does not lead to the root/,
  });
  const theirs = new X509Certificate(readFileSync(join(out, 'n1.crt'))).raw;
  writeFileSync(join(folder, 'n1.der'), theirs);
  t.match(await runHere(t, ['inspect', join(folder, 'n1.der')]), { code: 0, stdout: /spiffe:\/\/lab\/agent\/n1/ });
  t.match(await runHere(t, ['inspect', join(out, 'n1.key')]), { code: 4, stderr: /holds no certificate/ });
  t.match(await runHere(t, ['inspect', join(folder, 'nothing')]), { code: 5, stderr: /ENOENT/ });
  t.ok(checkPeer(theirs, { meshId: 'lab', purpose: 'client', nowMs: Date.now() }));
});

test('bad input: one line, the right exit code, nothing made', async (t) => {
  const { folder, dir } = await makeCa(t);
  const at = ['--out', join(folder, 'out'), '--dir', dir];
  const cases: [string[], number, RegExp][] = [
    [['init', '--dir', dir], 1, /already/],
    [['init'], 2, /--dir/],
    [['init', '--dir', join(folder, 'new'), '--mesh-id', 'No Good'], 2, /mesh id/],
    [['issue', 'n1', '--role', 'king', ...at], 2, /no role "king"/],
    [['issue', 'n1', ...at], 2, /--role/],
    [['issue', '../n1', '--role', 'agent', ...at], 2, /is not allowed/],
    [['issue', 'N1', '--role', 'agent', ...at], 2, /is not allowed/],
    [['issue', 'n1', '--role', 'agent', '--days', '0', ...at], 2, /--days/],
    [['issue', 'n1', '--role', 'agent', '--days', '91', ...at], 2, /at most 90 days/],
    [['issue', 'n1', '--role', 'agent', '--host', 'a.lan', ...at], 2, /no host names/],
    [['issue', 'n1', '--role', 'agent', '--bogus', ...at], 2, /bogus/],
    [
      ['issue', 'n1', '--role', 'agent', '--out', join(folder, 'out'), '--dir', join(folder, 'none')],
      1,
      /mesh-ca init/,
    ],
    [['issue', 'n1', '--role', 'agent', '--out', join(dir, 'ca.crt', 'x'), '--dir', dir], 1, /cannot write into/],
    [['issue', 'n1', '--role', 'agent', '--out', '/proc/nothing/here', '--dir', dir], 1, /cannot write into/],
    [['revoke', 'nobody', '--dir', dir], 5, /no certificate was issued/],
    [['renew', 'nobody', ...at], 5, /no certificate was issued/],
    [['renew', ...at], 2, /takes a name/],
    [['nonsense'], 2, /nonsense/],
  ];
  for (const [args, code, reason] of cases) {
    const done = await runHere(t, args);
    t.equal(done.code, code, args.join(' '));
    t.match(done.stderr, reason);
    t.equal(done.stderr.trimEnd().split('\n').length, 1, 'one line');
    t.equal(done.stdout, '');
  }
  t.notOk(existsSync(join(folder, 'new')));
  t.same(existsSync(join(folder, 'out')) ? readdirSync(join(folder, 'out')) : [], []);
  const machine = await runHere(t, ['revoke', 'nobody', '--dir', dir, '--json']);
  t.match(JSON.parse(machine.stderr), { error: { code: 'NOT_FOUND', message: /nobody/, hint: /list/ } });
  t.match(await runHere(t, ['list']), { code: 2, stderr: /no profile/ }, 'without --dir it needs a profile');
});

test('help has examples', async (t) => {
  for (const command of ['init', 'issue', 'renew', 'revoke', 'list', 'inspect', 'export'])
    t.match(await runHere(t, [command, '--help']), { code: 0, stdout: /Examples:\n {2}mesh-ca / }, command);
});

test('crl: DER or PEM, to a file or printed', async (t) => {
  const { folder, dir } = await makeCa(t);
  await json(t, ['issue', 'a1', '--role', 'agent', '--out', join(folder, 'a1'), '--dir', dir]);
  await json(t, ['revoke', 'a1', '--dir', dir]);
  const printed = await runHere(t, ['crl', '--dir', dir, '--pem']);
  t.match(printed, { code: 0, stdout: /^-----BEGIN X509 CRL-----\n[^-]+-----END X509 CRL-----\n$/ });
  const file = join(folder, 'list.crl');
  t.match(await runHere(t, ['crl', '--dir', dir, '--out', file]), { code: 0, stdout: '' });
  t.equal(readFileSync(file)[0], 0x30, 'DER');
  t.match(await json(t, ['crl', '--dir', dir, '--out', file, '--pem']), { file, crl: /^-----BEGIN X509 CRL/ });
  t.match(readFileSync(file, 'utf8'), /^-----BEGIN X509 CRL/);
});
