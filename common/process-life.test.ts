import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { test } from 'tap';
import { readFileSync } from 'node:fs';
import { isAlive, startTimeOf } from './process-life.js';

test('a process that runs is alive, one that is gone is not', async (t) => {
  t.ok(isAlive(process.pid));
  t.equal(startTimeOf(process.pid), startTimeOf(process.pid));
  const child = spawn(process.execPath, ['-e', ''], { stdio: 'ignore' });
  await once(child, 'exit');
  t.notOk(isAlive(child.pid as number));
});

test('one that is dead and not yet waited for is not alive', {
  skip: process.platform === 'linux' ? false : 'what is dead is told by /proc',
}, async (t) => {
  // What the shell becomes never waits for its child, which ends when it may read no more.
  const parent = spawn('sh', ['-c', 'read -r _ <&3 & echo $!; exec sleep 1000000 3<&-'], {
    stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
  });
  t.teardown(() => parent.kill('SIGKILL'));
  const lines = createInterface({ input: parent.stdout as NodeJS.ReadableStream });
  const pid = Number((await once(lines, 'line'))[0]);
  t.ok(isAlive(pid), 'it waits for its input');
  (parent.stdio[3] as NodeJS.WritableStream).end();
  while (isAlive(pid)) await new Promise((resolve) => setImmediate(resolve));
  t.match(readFileSync(`/proc/${pid}/stat`, 'utf8'), / Z /, 'and its parent has still not waited for it');
});
