import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type Test } from 'tap';
import { makeCsr } from '../../../common/identity/csr.js';
import { makeKeyPair } from '../../../common/identity/keys.js';
import { OPERATOR, PlayedAgent, startPlane, temporaryDirectory, type TestPlane } from '../../../test/support/plane.js';
import { withStore } from '../../../test/support/postgres.js';
import { fromUrl } from '../../store/connection.js';
import { examine } from './doctor.js';

const findingsOf = async ({ plane }: TestPlane, check: string) =>
  (await plane.doctor.examine()).filter((item) => item.check === check);

const DAY_MS = 86_400_000;

test('each check finds what it is for, and nothing once it is mended', async (t) => {
  const parts = await startPlane(t);
  const { plane, directory } = parts;
  const weak = async (check: string, found: RegExp, fix: RegExp | string) =>
    t.match(await findingsOf(parts, check), [{ severity: /weak|notice/, found, fix }], check);
  const well = async (check: string) =>
    t.same(await findingsOf(parts, check), [{ check, severity: 'ok', found: '', fix: '' }]);

  await t.test('tokens', async () => {
    await well('tokens.open');
    const make = (over: object) =>
      plane.enrollment.createToken(OPERATOR, {
        ...{ role: 'agent', name: '', ttlMs: 900_000, uses: 1, replace: false },
        ...over,
      });
    await make({});
    await make({ uses: 10 });
    await well('tokens.open');
    for (const over of [{ ttlMs: 3 * DAY_MS }, { uses: 100 }, { role: 'operator', uses: 2 }]) {
      const { row } = await make(over);
      await weak('tokens.open', new RegExp(row.id), `mesh token revoke ${row.id}`);
      await plane.enrollment.revokeToken(OPERATOR, row.id);
      await well('tokens.open');
    }
  });

  await t.test('certificates', async () => {
    const issue = (name: string, days: number) =>
      plane.issuance.issue(OPERATOR, { csr: makeCsr(makeKeyPair().privateKey, 'x'), role: 'operator', name, days });
    await issue('usual', 0);
    await well('certificates.life');
    const { serial } = await issue('forever', 300);
    await weak('certificates.life', /operator\/forever/, new RegExp(`mesh-ca revoke ${serial}`));
    await plane.issuance.revoke(OPERATOR, serial);
    await well('certificates.life');
  });

  await t.test('nodes', async () => {
    await well('nodes.sandbox');
    await new PlayedAgent(plane, 'attic').connect();
    await weak('nodes.sandbox', /attic/, /apt install bubblewrap/);
    await well('nodes.unsandboxed');
    const both = new PlayedAgent(plane, 'cellar');
    both.sandboxes = ['bubblewrap', 'process'];
    await both.connect();
    await weak('nodes.unsandboxed', /no sandbox .* on cellar$/, /--sandbox auto/);
  });

  await t.test('approval', async () => {
    await weak('nodes.approval', /without anybody looking/, /--approve-nodes/);
    t.match(
      (await examined(t, {})).find(({ check }) => check === 'nodes.approval'),
      { severity: 'ok' },
    );
  });

  await t.test('recovery', async () => {
    await weak('recovery.window', /comes back with its expired certificate for 30 days/, /--recover-within/);
    t.match(
      (await examined(t, {})).find(({ check }) => check === 'recovery.window'),
      { severity: 'ok' },
    );
  });

  await t.test('quotas', async () => {
    await weak('quotas.unlimited', /as much as there is/, /^mesh namespace set default/);
  });

  await t.test('the keys of the CA', async () => {
    await well('ca.keys');
    const ca = join(directory, 'ca');
    mkdirSync(ca);
    const key = join(ca, 'ca.key');
    writeFileSync(key, '-----BEGIN PRIVATE KEY-----\n', { mode: 0o644 });
    await weak('ca.passphrase', /not encrypted/, /mesh-ca passphrase set/);
    await weak('ca.root-key', /root's key/, /mesh-ca root export/);
    await weak('files.modes', /ca\.key .*mode 644/, `chmod 600 ${key}`);
    chmodSync(key, 0o600);
    writeFileSync(key, '-----BEGIN ENCRYPTED PRIVATE KEY-----\n');
    t.same(await findingsOf(parts, 'ca.passphrase'), []);
    await well('files.modes');
    chmodSync(directory, 0o755);
    await weak('files.modes', /entered by others/, `chmod 700 ${directory}`);
  });
});

const examined = async (t: Test, over: object) => {
  const store = await withStore(t);
  const config = { dataDir: temporaryDirectory(t), caPassphraseFile: undefined, approveNodes: true, recoverWithin: 0 };
  const witness = { broken: undefined } as never;
  return examine({ config, store, witness, databaseWarning: undefined, nowMs: 0, ...over });
};

test('a passphrase that others can read, a database that nobody verifies, an audit that is not in order', async (t) => {
  const file = join(temporaryDirectory(t), 'passphrase');
  writeFileSync(file, 'secret\n', { mode: 0o644 });
  const findings = await examined(t, {
    config: { dataDir: temporaryDirectory(t), caPassphraseFile: file, approveNodes: true, recoverWithin: 0 },
    databaseWarning: fromUrl('postgres://mesh@10.0.0.9/mesh?sslmode=require').warning,
    witness: { broken: { seq: 7, why: 'it is missing' } },
  });
  t.match(
    findings.filter(({ severity }) => severity === 'weak' || severity === 'problem'),
    [
      { check: 'files.modes', found: /passphrase/, fix: `chmod 600 ${file}` },
      { check: 'database.tls', fix: /sslmode=verify-full/ },
      { check: 'audit.chain', severity: 'problem', found: /entry 7/ },
    ],
  );
  t.equal(fromUrl('postgres://mesh@127.0.0.1/mesh').warning, undefined, 'what never leaves this machine is no finding');
});

test('a check that cannot look says so, and the others go on', async (t) => {
  const store = await withStore(t);
  const findings = await examined(t, {
    store: { ...store, tokens: { ...store.tokens, list: () => Promise.reject(new Error('no table')) } },
  });
  t.match(
    findings.find(({ check }) => check === 'tokens.open'),
    { severity: 'problem', found: /could not be looked at: no table/ },
  );
  t.ok(findings.some(({ check }) => check === 'audit.chain'));
});
