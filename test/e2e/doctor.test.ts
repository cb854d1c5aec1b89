/** `mesh doctor` against a mesh that is well, and against one that is not; what it says to type is typed. */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { Finding } from '../../common/finding.js';
import { type Mesh, makeMesh } from '../support/mesh.js';

let mesh: Mesh;

before(async () => {
  mesh = makeMesh(t);
  const passphrase = join(mesh.root, 'passphrase');
  writeFileSync(passphrase, 'correct horse\n', { mode: 0o600 });
  await mesh.startCoordinator({ args: ['--listen', '127.0.0.1', '--ca-passphrase-file', passphrase] });
});

async function examine(...args: string[]): Promise<{ code: number | null; bad: Finding[]; all: Finding[] }> {
  const result = await mesh.cli('doctor', '--json', ...args);
  const { findings, sound } = result.json<{ sound: boolean; findings: Finding[] }>();
  const bad = findings.filter(({ severity }) => severity === 'weak' || severity === 'problem');
  t.equal(sound, bad.length === 0);
  return { code: result.code, bad, all: findings };
}

test('a mesh that is well', async (t) => {
  const plain = await examine();
  t.equal(plain.code, 0);
  for (const check of ['profile', 'profile.certificate', 'coordinator', 'clock'])
    t.match(
      plain.all.find((item) => item.check === check),
      { severity: 'ok' },
      check,
    );
  const { code, bad, all } = await examine('--security', '--data', mesh.coordinator.dataDir);
  t.same(bad, []);
  t.equal(code, 0, 'notices alone are no answer of no');
  t.match(
    all.find(({ check }) => check === 'audit.verified'),
    { severity: 'ok' },
  );
  t.match(
    all.find(({ check }) => check === 'ca.root-key'),
    { severity: 'notice', fix: /mesh-ca root export/ },
  );
  t.match((await mesh.cli('doctor', '--security')).stdout, /nothing weak, nothing broken\n$/);
});

test('what is weak is found, each with what mends it, and is gone when that was typed', async (t) => {
  const { dataDir } = mesh.coordinator;
  chmodSync(join(dataDir, 'ca', 'issuer.key'), 0o644);
  chmodSync(join(dataDir, 'postgres', 'password'), 0o640);
  chmodSync(join(mesh.profile, 'client.key'), 0o604);
  chmodSync(join(mesh.root, 'passphrase'), 0o644);
  await mesh.token('--ttl', '20d');
  await mesh.token('--role', 'operator', '--uses', '3');
  const found = await examine('--security', '--data', dataDir);
  t.equal(found.code, 1);
  t.same(found.bad.map(({ check, severity }) => `${severity} ${check}`).sort(), [
    ...['weak files.local', 'weak files.local', 'weak files.modes'],
    ...['weak profile.modes', 'weak tokens.open', 'weak tokens.open'],
  ]);
  for (const { fix } of found.bad) {
    const [command, ...words] = fix.split(' ') as [string, ...string[]];
    if (command === 'mesh') t.equal((await mesh.cli(...words)).code, 0, fix);
    else execFileSync(command, words);
  }
  t.match(await examine('--security', '--data', dataDir), { code: 0, bad: [] });
});

test('who is no operator is told only what is theirs to know', async (t) => {
  const profile = join(mesh.root, 'anna');
  const token = await mesh.token('--role', 'submitter', '--name', 'anna');
  await mesh.cli('login', token, '--coordinator', mesh.coordinator.ready.address, '--profile', profile);
  const { code, all } = await examine('--security', '--profile', profile);
  t.equal(code, 0);
  t.match(
    all.find(({ check }) => check === 'coordinator.settings'),
    { severity: 'notice', found: /operators only/ },
  );
  t.notOk(all.some(({ check }) => check === 'tokens.open'));
});

test('without a profile, and without a coordinator', async (t) => {
  const nowhere = await mesh.cliWith({ env: { MESH_PROFILE: join(mesh.root, 'nowhere') } }, 'doctor', '--json');
  t.equal(nowhere.code, 1);
  t.match(nowhere.json<{ findings: Finding[] }>().findings[0], {
    check: 'profile',
    severity: 'problem',
    fix: /mesh login/,
  });
  const profile = join(mesh.root, 'away');
  cpSync(mesh.profile, profile, { recursive: true });
  await mesh.coordinator.program.stop();
  const away = await examine('--profile', profile);
  t.equal(away.code, 1);
  t.match(away.bad, [{ check: 'coordinator', severity: 'problem' }]);
});
