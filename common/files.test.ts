import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { defaultDataDir, makePrivateDir, readIfExists, writeFileAtomic, writeReadyFile } from './files.js';

test('a private directory is made with its parents, and left as it is when it is there', async (t) => {
  const path = join(t.testdir(), 'a', 'b');
  makePrivateDir(path);
  makePrivateDir(path);
  t.equal(statSync(path).mode & 0o777, 0o700);
});

test('a directory that cannot be made is named at once', async (t) => {
  const root = t.testdir({ file: '' });
  t.throws(() => makePrivateDir(join(root, 'file')), { code: 'DATA_DIR', message: /EEXIST/ });
  t.throws(() => makePrivateDir(join(root, 'file', 'x')), { code: 'DATA_DIR', message: /ENOTDIR/ });
  if (process.platform !== 'linux') return t.comment('skipped: there is no /proc here');
  t.throws(() => makePrivateDir('/proc/nothing/here'), { code: 'DATA_DIR', message: /ENOENT/ });
});

test('a file is replaced as a whole, and nothing else stays', async (t) => {
  const root = t.testdir();
  const path = join(root, 'f');
  writeFileAtomic(path, 'one', 0o600);
  writeFileAtomic(path, Buffer.from('two'), 0o600);
  t.equal(readFileSync(path, 'utf8'), 'two');
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.same(readdirSync(root), ['f']);
  t.throws(() => writeFileAtomic(join(root, 'gone', 'f'), ''), { code: 'DATA_DIR', message: /ENOENT/ });
});

test('missing files are undefined, ready files are JSON', async (t) => {
  const root = t.testdir();
  t.equal(readIfExists(join(root, 'gone')), undefined);
  t.throws(() => readIfExists(root), { code: 'DATA_DIR' });
  writeReadyFile(join(root, 'deep', 'ready'), { pid: 1 });
  t.same(JSON.parse(readFileSync(join(root, 'deep', 'ready'), 'utf8')), { pid: 1 });
  writeFileSync(join(root, 'x'), 'text');
  t.equal(readIfExists(join(root, 'x')), 'text');
});

test('data lives where the environment says', async (t) => {
  t.equal(defaultDataDir('agent', { MESH_HOME: '/m' }), '/m/agent');
  t.equal(defaultDataDir('coordinator', { XDG_DATA_HOME: '/x' }), '/x/planetary-mesh/coordinator');
  t.match(defaultDataDir('agent', {}), /\.local\/share\/planetary-mesh\/agent$/);
});
