import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test, type Test } from 'tap';
import { initDirectory, openDirectory } from '../ca/directory.js';
import { silentLogger } from '../common/log.js';
import { Passphrase } from '../common/passphrase.js';
import { ManualClock } from '../test/support/manual-clock.js';
import { temporaryDirectory } from '../test/support/plane.js';
import { withStore } from '../test/support/postgres.js';
import type { SettingStore } from './ports.js';
import { SecretKeeper } from './secret-keeper.js';

async function home(t: Test, clock: ManualClock) {
  const dataDir = temporaryDirectory(t);
  await initDirectory(join(dataDir, 'ca'), { nowMs: clock.wallMs(), clock });
  return dataDir;
}

async function keep(t: Test, dataDir: string, settings: SettingStore, clock: ManualClock, passphrase?: string) {
  const directory = openDirectory(join(dataDir, 'ca'), clock, passphrase ? new Passphrase(passphrase) : undefined);
  const authority = {
    meshId: 'test-mesh',
    readKey: (name: string) => directory.readKey(name),
    writeKey: (name: string, key: Parameters<typeof directory.writeKey>[1]) => directory.writeKey(name, key),
  };
  const keeper = new SecretKeeper({
    ...{ dataDir, authority, settings, clock, log: silentLogger, coordinators: () => [] },
    credential: () => {
      throw new Error('there is nobody to ask');
    },
  });
  await keeper.start();
  t.teardown(() => keeper.stop());
  return { keeper, directory };
}

test('the first coordinator makes the key, keeps it, and puts it under the passphrase of the CA', async (t) => {
  const { settings } = await withStore(t);
  const clock = new ManualClock();
  const dataDir = await home(t, clock);
  const path = join(dataDir, 'ca', 'secrets.key');
  const { keeper, directory } = await keep(t, dataDir, settings, clock);
  const id = keeper.key?.id;
  t.match(id, /^[0-9a-f]{16}$/);
  t.equal(await settings.get('secret-key'), id);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.equal((await keep(t, dataDir, settings, clock)).keeper.key?.id, id, 'the same in its next life');
  await directory.setPassphrase(new Passphrase('correct horse'));
  t.match(readFileSync(path, 'utf8'), /BEGIN ENCRYPTED PRIVATE KEY/);
  t.equal((await keep(t, dataDir, settings, clock, 'correct horse')).keeper.key?.id, id);
});

test('of two coordinators that begin at once one has the key; a lost one is missed until it is given up', async (t) => {
  const { settings } = await withStore(t);
  const clock = new ManualClock();
  const homes = [await home(t, clock), await home(t, clock)];
  const keepers = await Promise.all(homes.map((dataDir) => keep(t, dataDir, settings, clock)));
  t.equal(keepers.filter(({ keeper }) => keeper.key !== undefined).length, 1);
  const owner = keepers.findIndex(({ keeper }) => keeper.key !== undefined);
  const lost = keepers[owner]?.keeper.key?.id;
  rmSync(join(homes[owner] as string, 'ca', 'secrets.key'));
  const { keeper } = await keep(t, homes[owner] as string, settings, clock);
  t.equal(keeper.key, undefined);
  await keeper.abandon();
  await keeper.stop();
  t.ok(keeper.key && keeper.key.id !== lost, 'a new one');
  t.equal(await settings.get('secret-key'), keeper.key?.id);
});
