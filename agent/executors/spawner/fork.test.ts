import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { makeSpawner, noSpawner, outcome, plan } from '../../../test/support/spawner.js';

const spawned = { skip: noSpawner };
const notRoot = noSpawner || (process.getuid?.() !== 0 && 'only root reads what the spawner has in memory');

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
