import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { DataLock } from './data-lock.js';

/** The start time of a process as Linux tells it; undefined elsewhere. */
function startTimeOf(pid: number): string | undefined {
  if (process.platform !== 'linux') return undefined;
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
}

test('held by one, refused to another with its process, free after release', async (t) => {
  const directory = t.testdir();
  const path = join(directory, 'x.lock');
  const first = new DataLock(path, 'a coordinator');
  first.acquire();
  t.throws(() => new DataLock(path, 'a coordinator').acquire(), {
    code: 'IN_USE',
    message: `a coordinator (process ${process.pid}) already runs on this data directory`,
    hint: /--data/,
  });
  t.same(readdirSync(directory), ['x.lock'], 'a refused attempt leaves nothing');
  t.match(readFileSync(path, 'utf8'), new RegExp(`^${process.pid} `));
  first.release();
  first.release();
  t.same(readdirSync(directory), []);
  const again = new DataLock(path, 'a coordinator');
  again.acquire();
  first.release();
  t.same(readdirSync(directory), ['x.lock'], 'who does not hold it cannot release it');
});

test('a file whose process is gone is taken over', async (t) => {
  const path = join(t.testdir(), 'x.lock');
  const child = spawn(process.execPath, ['-e', '']);
  await once(child, 'exit');
  writeFileSync(path, `${child.pid} 12345\n`);
  const lock = new DataLock(path, 'an agent');
  lock.acquire();
  t.match(readFileSync(path, 'utf8'), new RegExp(`^${process.pid} `));
});

test('a pid that belongs to somebody else by now is no holder', async (t) => {
  const started = startTimeOf(process.pid);
  if (started === undefined) return t.comment('skipped: only Linux tells when a process started');
  const path = join(t.testdir(), 'x.lock');
  writeFileSync(path, `${process.pid} ${Number(started) - 1}\n`);
  new DataLock(path, 'an agent').acquire();
  t.equal(readFileSync(path, 'utf8'), `${process.pid} ${started}\n`);
});

test('a living process of another start keeps it; a file without a start time counts as living', async (t) => {
  const directory = t.testdir();
  const child = spawn(process.execPath, ['-e', 'process.stdin.resume()']);
  t.teardown(() => child.kill());
  await once(child, 'spawn');
  for (const content of [`${child.pid} ${startTimeOf(child.pid ?? 0) ?? 'unknown'}\n`, `${child.pid}\n`]) {
    const path = join(directory, `${content.length}.lock`);
    writeFileSync(path, content);
    t.throws(() => new DataLock(path, 'an agent').acquire(), { code: 'IN_USE' });
    t.equal(readFileSync(path, 'utf8'), content, 'untouched');
  }
});

test('garbage is nobody’s', async (t) => {
  for (const content of ['', 'garbage\n', '-1 5\n', '99999999999 5\n']) {
    const path = join(t.testdir(), 'x.lock');
    writeFileSync(path, content);
    new DataLock(path, 'an agent').acquire();
    t.match(readFileSync(path, 'utf8'), new RegExp(`^${process.pid} `), JSON.stringify(content));
  }
});

test('a dead process that nobody has waited for holds nothing', async (t) => {
  if (process.platform !== 'linux') return t.comment('skipped: only Linux tells the state of a process');
  // The child of a shell that is replaced by one which never waits stays a zombie; it ends when that has happened.
  const script = '(while [ "$(cat /proc/$$/comm)" = sh ]; do :; done) & echo $!; exec cat';
  const parent = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => parent.kill());
  const [output] = (await once(parent.stdout, 'data')) as [Buffer];
  const pid = Number(output.toString());
  const state = () => readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /, '')[0];
  while (state() !== 'Z') await new Promise((resolve) => setImmediate(resolve));
  const path = join(t.testdir(), 'x.lock');
  writeFileSync(path, `${pid} ${startTimeOf(pid)}\n`);
  new DataLock(path, 'an agent').acquire();
  t.match(readFileSync(path, 'utf8'), new RegExp(`^${process.pid} `));
});

test('a directory that cannot be written says so', async (t) => {
  t.throws(() => new DataLock(join(t.testdir(), 'gone', 'x.lock'), 'an agent').acquire(), {
    code: 'DATA_DIR',
    message: /cannot write .*ENOENT/,
  });
});

test('of many processes that find a stale file at a moment, one gets it', async (t) => {
  const directory = t.testdir();
  const path = join(directory, 'x.lock');
  writeFileSync(path, '999999999 5\n');
  const code = `
    import { DataLock } from ${JSON.stringify(new URL('./data-lock.ts', import.meta.url).href)};
    process.stdout.write('ready\\n');
    process.stdin.once('data', () => {
      try {
        new DataLock(${JSON.stringify(path)}, 'an agent').acquire();
        process.stdout.write('held\\n');
      } catch (error) {
        process.stdout.write(error.code + '\\n');
      }
    });
  `;
  const children = Array.from({ length: 4 }, () =>
    spawn(process.execPath, ['--import=tsx', '--input-type=module', '-e', code], {
      stdio: ['pipe', 'pipe', 'inherit'],
    }),
  );
  t.teardown(() => {
    for (const child of children) child.kill();
  });
  await Promise.all(children.map((child) => once(child.stdout, 'data')));
  const answers = children.map((child) => once(child.stdout, 'data'));
  for (const child of children) child.stdin.write('go\n');
  const said = (await Promise.all(answers)).map(([data]) => String(data).trim()).sort();
  t.same(said, ['IN_USE', 'IN_USE', 'IN_USE', 'held']);
  t.same(readdirSync(directory), ['x.lock']);
});
