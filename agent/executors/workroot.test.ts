import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { findTaskUser, taskUser } from './user.js';
import { dataDirMarker, prepareWorkRoot } from './workroot.js';

function scratch(t: { teardown(fn: () => unknown): unknown }): string {
  const directory = mkdtempSync(join(tmpdir(), 'workroot '));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
const notRoot = process.getuid?.() !== 0 && 'needs root: an ordinary agent keeps its work in its data directory';

test('the task user comes from /etc/passwd, or as numbers, and is never root', async (t) => {
  const passwd = join(scratch(t), 'passwd');
  writeFileSync(passwd, 'root:x:0:0::/root:/bin/sh\nworker:x:1234:1235::/:/bin/false\n');
  t.same(findTaskUser('worker', passwd), { name: 'worker', uid: 1234, gid: 1235 });
  t.same(findTaskUser('77:78', passwd), { name: '77:78', uid: 77, gid: 78 });
  t.throws(() => findTaskUser('root', passwd), { code: 'BAD_CONFIG', message: /must not run as root/ });
  t.throws(() => findTaskUser('0:5', passwd), { code: 'BAD_CONFIG' });
  t.throws(() => findTaskUser('nobody-here', passwd), { code: 'BAD_CONFIG', message: /"nobody-here".*is not in/ });
  t.throws(() => findTaskUser('x', join(passwd, 'none')), { code: 'BAD_CONFIG', message: /cannot be read/ });
  t.equal(taskUser()?.name, process.getuid?.() === 0 ? 'nobody' : undefined);
});

test('an ordinary agent works in its data directory, and finds it empty', async (t) => {
  const dataDir = scratch(t);
  mkdirSync(join(dataDir, 'work/left/over'), { recursive: true });
  const root = await prepareWorkRoot(dataDir, undefined);
  t.equal(root.path, join(dataDir, 'work'));
  t.same(readdirSync(root.path), ['scratch']);
  t.equal(statSync(root.path).mode & 0o777, 0o700);
  await root.remove();
  t.same(readdirSync(root.path), []);
});

test('a root agent with a private data directory works outside it', { skip: notRoot }, async (t) => {
  const [dataDir, temporary] = [scratch(t), scratch(t)];
  const user = { name: 'nobody', uid: 65534, gid: 65534 };
  const root = await prepareWorkRoot(dataDir, user, temporary);
  const name = `planetary-mesh-${dataDirMarker(dataDir)}`;
  t.equal(root.path, join(temporary, name));
  t.equal(statSync(root.path).mode & 0o777, 0o711);
  t.equal(statSync(root.scratch).uid, user.uid);
  await root.remove();
  t.same(readdirSync(temporary), []);

  const elsewhere = scratch(t);
  symlinkSync(elsewhere, join(temporary, name));
  const another = await prepareWorkRoot(dataDir, user, temporary);
  t.ok(another.path.startsWith(join(temporary, `${name}-`)), 'a planted link is not followed');
  t.same(readdirSync(elsewhere), []);
  await another.remove();
});

test('a root agent whose data directory others may pass works in it', { skip: notRoot }, async (t) => {
  const dataDir = scratch(t);
  chmodSync(dataDir, 0o711);
  const root = await prepareWorkRoot(dataDir, { name: 'nobody', uid: 65534, gid: 65534 });
  t.equal(root.path, join(dataDir, 'work'));
  await root.remove();
});
