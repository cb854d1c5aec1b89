import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { test } from 'tap';
import { makeSpawner, noSpawner, outcome, plan } from '../../../test/support/spawner.js';

const spawned = { skip: noSpawner };
const notRoot = noSpawner || (process.getuid?.() !== 0 && 'only root reads what the spawner has in memory');
const notHeld =
  notRoot || (spawnSync('perl', ['-e', '1']).status !== 0 && 'what holds a file so that nobody can execute it is perl');

/** Until it is closed, whoever opens the file waits (a lease, which the system gives somebody 45 s to give back). */
const HOLDER =
  'open(F, "<", $ARGV[0]) && fcntl(F, 1024, 1) or die $!; $SIG{IO} = "IGNORE"; $| = 1; print "held"; <STDIN>';

test('a command without a slash is looked for as execvp does', spawned, async (t) => {
  const spawner = await makeSpawner(t);
  const folder = mkdtempSync(join(tmpdir(), 'spawner-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const [first, second] = [join(folder, 'first'), join(folder, 'second')];
  for (const place of [first, second]) mkdirSync(place);
  writeFileSync(join(first, 'denied'), 'echo no', { mode: 0o644 });
  writeFileSync(join(second, 'script'), 'echo "$0 $1"', { mode: 0o755 });
  const run = (name: string, path?: string, directory = '/') =>
    outcome(spawner.starter(plan([name, 'one'], { directory, environment: path === undefined ? {} : { PATH: path } })));
  const script = { exitCode: 0, out: `${join(second, 'script')} one\n` };
  t.match(await run('script', `${folder}/none:${first}:${second}`), script, 'a script without a first line, too');
  t.match(await run('script', `:${first}`, second), { exitCode: 0, out: 'script one\n' }, 'an empty part is here');
  t.match(await run('true'), { exitCode: 0 }, 'where the system has its programs');
  await t.rejects(run('denied', `${first}:${second}`), { code: 'EACCES' });
  await t.rejects(run('script', first), { code: 'ENOENT' });
  await t.rejects(run('', second), { code: 'ENOENT' });
  const many = Array.from({ length: 3000 }, (_, i) => `${folder}/${i}`).join(':');
  t.match(await run('script', `${many}:${second}`), script, 'however long the list is');
});

test('a fork copies nothing but the code and what one command is given', { skip: notRoot }, async (t) => {
  const spawner = await makeSpawner(t);
  const { pid } = spawner;
  // So much at a time makes its memory grow.
  const children = Array.from({ length: 50 }, () => spawner.starter(plan(['true', 'x'.repeat(20_000)])));
  for (const child of children) t.match(await child.exited, { exitCode: 0 });
  const copied = readFileSync(`/proc/${pid}/smaps`, 'utf8')
    .split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    .filter((mapping) => !/^VmFlags:.* dc( |$)/m.test(mapping) && !mapping.includes('[vsyscall]'));
  const writable = copied.filter((mapping) => mapping.split(' ')[1]?.includes('w'));
  t.equal(copied.length, 2, copied.join('\n'));
  t.equal(writable.length, 1);
  t.match(writable[0], /^Size:\s+64 kB$/m);
});

test('one that cannot become its command yet keeps nobody waiting, and nobody looks into it', {
  skip: notHeld,
}, async (t) => {
  const spawner = await makeSpawner(t);
  const folder = mkdtempSync(join(tmpdir(), 'spawner-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  chmodSync(folder, 0o755);
  const file = join(folder, 'held');
  writeFileSync(file, '#!/bin/sh\nexit 3\n', { mode: 0o755 });
  const holder = spawn('perl', ['-e', HOLDER, file], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => holder.kill());
  await new Promise((resolve) => holder.stdout.once('data', resolve));

  const user = { uid: 65534, gid: 65534, name: 'nobody' };
  const waiting = Array.from({ length: 12 }, () => spawner.starter(plan([file], { user })));
  const pids = await Promise.all(waiting.map((child) => new Promise<number>((resolve) => child.whenKnown(resolve))));
  const of = (pid: number | undefined, name: string) => readFileSync(`/proc/${pid}/${name}`, 'utf8');
  for (const pid of pids) while (!/^Uid:\s+65534\s/m.test(of(pid, 'status'))) await nextTurn();

  const sharing = pids.filter((pid) => of(pid, 'maps') === of(spawner.pid, 'maps')).length;
  t.equal(sharing, readFileSync('/proc/sys/fs/suid_dumpable', 'utf8') === '1\n' ? 0 : 8, 'the others are forks');
  const look = pids.map((pid) => `cat /proc/${pid}/maps /proc/${pid}/environ; ls /proc/${pid}/fd/`).join('; ');
  const seen = await outcome(spawner.starter(plan(['sh', '-c', `id -u; ${look}`], { user })));
  t.equal(seen.out, '65534\n');
  t.equal(seen.err.match(/Permission denied/g)?.length, 36, seen.err);

  holder.stdin.end();
  for (const child of waiting) t.match(await child.exited, { exitCode: 3 });
});
