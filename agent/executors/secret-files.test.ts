import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { makeAttempt, makeBench, makeBody, observe } from '../../test/support/executor-bench.js';
import { tiersOf } from '../../test/support/tiers.js';
import { JobSecrets } from '../core/secrets.js';
import { NodeFault } from '../core/types.js';
import { ProcessExecutor } from './process.js';
import { SecretFiles } from './secret-files.js';

const use = (name: string, file: boolean) => ({ name, variable: file ? `${name}_FILE` : name, file, owner: '' });
const secrets = new JobSecrets(
  [use('TOKEN', false), use('KEY', true)],
  [Buffer.from('to ken'), Buffer.from([0, 1, 255])],
);

async function setup(t: Parameters<typeof makeBench>[0]) {
  const bench = await makeBench(t);
  const home = join('/dev/shm', `planetary-mesh-${bench.marker}`);
  const prepare = () => SecretFiles.prepare(bench.marker, bench.user, bench.janitor, ['/dev/shm']);
  const files = await prepare();
  if (!files) throw new Error('/dev/shm is no memory file system');
  t.teardown(() => files.close());
  return { ...bench, home, files, prepare };
}

for (const tier of ['process', 'bubblewrap'] as const)
  test(`${tier}: a command has its secrets in variables and in files that go with it`, async (t) => {
    const { home, files, ...bench } = await setup(t);
    const executor = new ProcessExecutor({
      ...{ ...bench, tiers: await tiersOf(tier, bench), secretFiles: files },
      files: { withFile: () => Promise.reject(new NodeFault('no files here')) },
      ...{ clock: systemClock, log: silentLogger, nodeName: () => 'node-1' },
    });
    const script = `printf '%s|' "$TOKEN"; od -An -tx1 "$KEY_FILE" | tr -d ' \\n'; printf '|%s|' "$MESH_SECRETS"
      stat -c '%a %U' "$KEY_FILE" "$MESH_SECRETS" | tr '\\n' ' '; tr '\\0' ' ' < /proc/self/cmdline`;
    const body = makeBody({ $case: 'process', value: { argv: ['sh', '-c', script], environment: {} } });
    const run = observe(executor, [makeAttempt(body)], { secrets });
    t.match(await run.end(), { outcome: 'succeeded' });
    const [token, key, directory, rest] = run.text(0).split('|');
    t.same([token, key], ['to ken', '0001ff']);
    t.equal(directory?.startsWith(`${home}/`), true);
    t.match(rest, /^400 \w+ 700 \w+ /);
    t.notMatch(rest, 'to ken');
    await bench.janitor.idle();
    t.same(readdirSync(home), [], 'nothing is left');
  });

test('what a killed agent left in memory goes when it starts again, and leads nowhere else', async (t) => {
  const { home, files, prepare, dataDir } = await setup(t);
  const outside = join(dataDir, 'outside');
  mkdirSync(outside);
  writeFileSync(join(outside, 'kept'), 'x');
  const placed = files.place(new Map([['KEY', Buffer.from('left behind')]]));
  symlinkSync(outside, join(placed.directory, 'link'));
  t.equal(readFileSync(join(placed.directory, 'KEY'), 'utf8'), 'left behind');
  await prepare();
  t.same(readdirSync(home), []);
  t.equal(readFileSync(join(outside, 'kept'), 'utf8'), 'x');
});

test('a task that spoils its files neither keeps its attempt from ending nor leaves anything', async (t) => {
  const { home, files, ...bench } = await setup(t);
  const executor = new ProcessExecutor({
    ...{ ...bench, tiers: await tiersOf('process', bench), secretFiles: files },
    files: { withFile: () => Promise.reject(new NodeFault('no files here')) },
    ...{ clock: systemClock, log: silentLogger, nodeName: () => 'node-1' },
  });
  const script = 'rm -f "$KEY_FILE"; mkdir "$KEY_FILE"; : > "$KEY_FILE/more"; chmod 0 "$MESH_SECRETS"';
  const body = makeBody({ $case: 'process', value: { argv: ['sh', '-c', script], environment: {} } });
  const run = observe(executor, [makeAttempt(body)], { secrets });
  t.match(await run.end(), { outcome: 'succeeded' });
  await bench.janitor.idle();
  t.same(readdirSync(home), [], 'nothing is left');
});

test('a name that leads elsewhere is refused', async (t) => {
  const { home, files } = await setup(t);
  for (const name of ['../outside', '..', 'a/b', 'a\0b', ''])
    t.throws(() => files.place(new Map([[name, Buffer.from('x')]])), { code: 'BAD_SPEC' }, JSON.stringify(name));
  t.same(readdirSync(home), []);
});

test('only a memory file system will do', async (t) => {
  const { marker, user, janitor, dataDir, home } = await setup(t);
  t.equal(await SecretFiles.prepare(marker, user, janitor, [undefined, dataDir, '/nowhere']), undefined);
  rmSync(home, { recursive: true, force: true });
  const files = await SecretFiles.prepare(marker, user, janitor, [dataDir, '/dev/shm']);
  rmSync(home, { recursive: true, force: true });
  t.throws(() => files?.place(new Map([['KEY', Buffer.from('x')]])), NodeFault, 'the node cannot run it');
});
