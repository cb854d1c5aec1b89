import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { Directories } from './directories.js';
import { Janitor } from './janitor.js';

function setup(t: { teardown(fn: () => unknown): unknown }) {
  const root = mkdtempSync(join(tmpdir(), 'directories-'));
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  const janitor = new Janitor(undefined, silentLogger);
  return { root, janitor, directories: new Directories(root, janitor) };
}

test('one that was left as it was serves the next attempt of its job, and only of its job', (t) => {
  const { root, directories } = setup(t);
  const outer = directories.take(9);
  const first = directories.take(1);
  t.notOk(first.made);
  mkdirSync(first.path);
  directories.give(1, first.path, true);
  directories.over();
  t.notOk(directories.take(2).made, 'another job');
  t.notOk(directories.takeNew().made, 'one that begins with files');
  t.same(directories.take(1), { path: first.path, made: true });
  t.notOk(directories.take(1).made, 'it is taken');
  directories.give(1, first.path, true);
  for (let i = 0; i < 4; i++) directories.over();
  t.ok(existsSync(first.path), 'something runs still');
  directories.give(9, outer.path, true);
  directories.over();
  t.same(readdirSync(root), [], 'nothing runs any more');
  t.end();
});

test('one that was used goes, and of the others only so many stay', async (t) => {
  const { root, janitor, directories } = setup(t);
  const used = directories.take(1);
  mkdirSync(used.path);
  writeFileSync(join(used.path, 'file'), '');
  directories.give(1, used.path, false);
  await janitor.idle();
  t.same(readdirSync(root), []);
  const many = Array.from({ length: 100 }, () => directories.take(1));
  for (const { path } of many) mkdirSync(path);
  for (const { path } of many) directories.give(1, path, true);
  t.equal(readdirSync(root).length, 64);
  t.notOk(existsSync(many[0]?.path ?? ''), 'the oldest go first');
  for (let i = 0; i < 101; i++) directories.over();
  t.same(readdirSync(root), []);
});
