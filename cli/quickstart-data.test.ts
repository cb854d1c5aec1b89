import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { freshDataDir } from './quickstart-data.js';

test('what an earlier run left is removed', async (t) => {
  const root = t.testdir({ '.quickstart': { coordinator: { ca: 'old' }, log: { 'a.ready': '{"pid":999999999}' } } });
  const data = freshDataDir(root);
  t.same(data, { path: join(root, '.quickstart'), temporary: false });
  t.notOk(existsSync(join(data.path, 'coordinator')));
});

test('a run that is still going is left alone; a number that another program has now is not', async (t) => {
  const root = t.testdir();
  const directory = join(root, '.quickstart');
  mkdirSync(join(directory, 'log'), { recursive: true });
  const child = spawn(process.execPath, ['-e', 'process.stdin.resume()', directory], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  const exited = once(child, 'exit');
  writeFileSync(join(directory, 'log', 'a.ready'), JSON.stringify({ pid: child.pid }));
  t.throws(() => freshDataDir(root), { code: 'IN_USE', hint: new RegExp(`kill ${child.pid}`) });
  child.stdin.end();
  await exited;
  t.equal(freshDataDir(root).path, directory);
  if (process.platform !== 'linux') return t.comment('only Linux tells what a process is: reused numbers are skipped');
  mkdirSync(join(directory, 'log'));
  writeFileSync(join(directory, 'log', 'a.ready'), JSON.stringify({ pid: process.pid }));
  t.equal(freshDataDir(root).path, directory);
});

test('where nothing can be written, a temporary directory serves', async (t) => {
  const root = t.testdir({ '.quickstart': 'a file is in the way' });
  const data = freshDataDir(root);
  t.teardown(() => rmSync(data.path, { recursive: true }));
  t.equal(data.temporary, true);
  t.notOk(data.path.startsWith(root));
  if (process.getuid?.() === 0) return t.comment('as root everything can be written: read-only folders are skipped');
  const locked = t.testdir({ locked: {} });
  chmodSync(join(locked, 'locked'), 0o500);
  t.equal(freshDataDir(join(locked, 'locked')).temporary, true);
});
