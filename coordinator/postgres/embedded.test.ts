import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import postgres from 'postgres';
import { type Test, test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { isAlive } from '../../common/process-life.js';
import { copyPrograms } from './account.js';
import { findBinaries } from './binaries.js';
import { EmbeddedPostgres, type EmbeddedPostgresOptions } from './embedded.js';
import { parsePidFile } from './orphan.js';

/** A folder with a space and a quote in its name, removed in the end. Not tap's: that one lies below a repository. */
function newDirectory(t: Test): string {
  const base = mkdtempSync(join(tmpdir(), "mesh embedded's "));
  t.teardown(() => rmSync(base, { recursive: true, force: true }));
  return join(base, 'postgres');
}

function newServer(t: Test, directory: string, over: Partial<EmbeddedPostgresOptions> = {}): EmbeddedPostgres {
  const server = new EmbeddedPostgres({ directory, log: silentLogger, clock: systemClock, ...over });
  t.teardown(() => server.stop());
  return server;
}

async function query(server: EmbeddedPostgres, text: string): Promise<readonly Record<string, unknown>[]> {
  const sql = postgres({ ...server.connection, max: 1, fetch_types: false, onnotice: () => undefined });
  try {
    return await sql.unsafe(text);
  } finally {
    await sql.end();
  }
}

const untilGone = async (pid: number): Promise<void> => {
  while (isAlive(pid)) await new Promise((resolve) => setImmediate(resolve));
};

test('a new directory gets a cluster, a later start finds it as it was', async (t) => {
  const directory = newDirectory(t);
  const first = newServer(t, directory);
  t.throws(() => first.connection, { code: 'INTERNAL' });
  await first.start();
  await query(first, "create table kept (word text); insert into kept values ('hello')");
  t.match(await query(first, 'show fsync'), [{ fsync: 'on' }]);
  t.match(await query(first, 'show synchronous_commit'), [{ synchronous_commit: 'on' }]);
  t.match(
    await query(
      first,
      "select datcollate, pg_encoding_to_char(encoding) as code from pg_database where datname = 'mesh'",
    ),
    [{ datcollate: 'C', code: 'UTF8' }],
  );
  if (process.platform !== 'win32') {
    t.equal(statSync(join(directory, 'password')).mode & 0o777, 0o600);
    t.equal(statSync(first.connection.host).mode & 0o777, 0o700);
    t.match(await query(first, 'show listen_addresses'), [{ listen_addresses: '' }]);
  }
  const wrong = postgres({ ...first.connection, password: 'guess', max: 1 });
  await t.rejects(wrong`select 1`, { code: '28P01' }, 'the socket asks for the password');
  await wrong.end();
  const { pid = 0, connection } = first;
  await Promise.all([first.stop(), first.stop()]);
  t.notOk(isAlive(pid));
  t.notOk(existsSync(connection.host), 'the socket directory is gone');
  t.match(readFileSync(join(directory, 'postgres.log'), 'utf8'), /database system is shut down/);

  const second = newServer(t, directory);
  await second.start();
  t.match(await query(second, 'select word from kept'), [{ word: 'hello' }]);
  await second.stop();
  t.same(readdirSync(directory).sort(), ['data', 'password', 'postgres.log']);
});

/** A process of its own that starts the server, says its pid and goes on until it is killed. */
function startElsewhere(directory: string): ChildProcess {
  const here = dirname(fileURLToPath(import.meta.url));
  const program = `
    import { EmbeddedPostgres } from ${JSON.stringify(join(here, 'embedded.js'))};
    import { systemClock } from ${JSON.stringify(join(here, '../../common/clock.js'))};
    import { silentLogger } from ${JSON.stringify(join(here, '../../common/log.js'))};
    const server = new EmbeddedPostgres({ directory: ${JSON.stringify(directory)}, log: silentLogger, clock: systemClock });
    await server.start();
    process.stdout.write(server.pid + ' ' + server.connection.host + '\\n');
    setInterval(() => undefined, 1e6);`;
  return spawn(process.execPath, ['--import=tsx', '--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: join(here, '../..'),
  });
}

test('the server of a coordinator that was killed is stopped and its work is there', async (t) => {
  const directory = newDirectory(t);
  const elsewhere = startElsewhere(directory);
  const [line] = (await once(createInterface({ input: elsewhere.stdout as NodeJS.ReadableStream }), 'line')) as [
    string,
  ];
  const [pid, socketDirectory] = [Number(line.split(' ')[0]), line.slice(line.indexOf(' ') + 1)] as const;
  const password = readFileSync(join(directory, 'password'), 'utf8').trim();
  const sql = postgres({ host: socketDirectory, user: 'mesh', password, database: 'mesh', max: 1 });
  await sql`create table kept as select 7 as number`;
  elsewhere.kill('SIGKILL');
  await once(elsewhere, 'exit');
  t.ok(isAlive(pid), 'the server outlives its coordinator');
  const next = newServer(t, directory);
  await next.start();
  t.notOk(isAlive(pid), 'the next start ends it');
  t.not(next.pid, pid);
  t.match(await query(next, 'select number from kept'), [{ number: 7 }]);
  t.notOk(existsSync(socketDirectory), 'its socket directory is removed');
  await sql.end({ timeout: 0 });
});

test('a pid file that names nobody, or somebody else, does not hinder', async (t) => {
  const directory = newDirectory(t);
  const first = newServer(t, directory);
  await first.start();
  const { pid = 0 } = first;
  const pidFile = join(directory, 'data', 'postmaster.pid');
  const text = readFileSync(pidFile, 'utf8');
  t.match(parsePidFile(text), { pid, socketDirectory: first.connection.host });
  await first.stop();
  const bystander = spawn(process.execPath, ['-e', 'setInterval(() => undefined, 1e6)'], { stdio: 'ignore' });
  t.teardown(() => bystander.kill('SIGKILL'));
  for (const named of [pid, bystander.pid ?? 0]) {
    writeFileSync(pidFile, text.replace(String(pid), String(named)), { mode: 0o600 });
    const again = newServer(t, directory);
    await again.start();
    t.match(await query(again, 'select 1 as one'), [{ one: 1 }]);
    await again.stop();
  }
  t.ok(isAlive(bystander.pid ?? 0), 'the process that has the number now is left alone');
  t.same(['', '\n', '0\n', 'x', '-5\n'].map(parsePidFile), [undefined, undefined, undefined, undefined, undefined]);
});

test('what an interrupted initdb left is cleared away', async (t) => {
  const directory = newDirectory(t);
  mkdirSync(join(directory, 'data.0a1b2c3d.init', 'base'), { recursive: true });
  writeFileSync(join(directory, 'data.0a1b2c3d.init', 'PG_VERSION'), '18\n');
  writeFileSync(join(directory, 'data.0a1b2c3d.init-password'), 'x');
  const server = newServer(t, directory);
  await server.start();
  t.same(readdirSync(directory).sort(), ['data', 'password', 'postgres.log']);
});

test('a directory that is something else is refused in one line', async (t) => {
  const foreign = newDirectory(t);
  mkdirSync(join(foreign, 'data'), { recursive: true });
  writeFileSync(join(foreign, 'data', 'thesis.txt'), 'mine');
  await t.rejects(newServer(t, foreign).start(), { code: 'DATA_DIR', message: /not empty/ });
  t.same(readdirSync(join(foreign, 'data')), ['thesis.txt']);
  const older = newDirectory(t);
  mkdirSync(join(older, 'data'), { recursive: true });
  writeFileSync(join(older, 'data', 'PG_VERSION'), '14\n');
  await t.rejects(newServer(t, older).start(), { code: 'DATA_DIR', message: /PostgreSQL 14/ });
  const file = newDirectory(t);
  writeFileSync(file, '');
  await t.rejects(newServer(t, file).start(), { code: 'DATA_DIR' });
});

test('a server that dies is started again in the same place; answered commits are there', async (t) => {
  const directory = newDirectory(t);
  const server = newServer(t, directory);
  await server.start();
  await query(server, 'create table kept as select 7 as number');
  const { connection, pid = 0 } = server;
  process.kill(pid, 'SIGKILL');
  await untilGone(pid);
  let rows: readonly Record<string, unknown>[] | undefined;
  while (!rows) rows = await query(server, 'select number from kept').catch(() => undefined);
  t.match(rows, [{ number: 7 }]);
  t.same(server.connection, connection);
  t.not(server.pid, pid);
});

test('stopping while it starts leaves nothing running', async (t) => {
  const directory = newDirectory(t);
  const server = newServer(t, directory);
  const starting = server.start();
  await server.stop();
  await starting;
  t.notOk(existsSync(join(directory, 'data', 'postmaster.pid')));
});

test('as root without a user namespace it runs as another user', async (t) => {
  if (process.getuid?.() !== 0) {
    t.pass('skipped: only root needs another user');
    return;
  }
  // Below a 0700 directory, where the other user cannot reach data or programs of ours.
  const directory = newDirectory(t);
  const nobodyRoot = mkdtempSync(join(tmpdir(), 'mesh-nobody-'));
  chmodSync(nobodyRoot, 0o755);
  t.teardown(() => rmSync(nobodyRoot, { recursive: true, force: true }));
  const copy = copyPrograms(await findBinaries(), nobodyRoot);
  t.ok(spawnSync(copy.postgres, ['--version'], { uid: 65534, gid: 65534 }).status === 0, 'a copy of the programs runs');
  const server = newServer(t, directory, { nobodyRoot });
  await server.start();
  t.match(await query(server, 'select current_user::text as name'), [{ name: 'mesh' }]);
  t.not(statSync(`/proc/${server.pid}`).uid, 0);
  await query(server, 'create table kept as select 7 as number');
  await server.stop();
  const again = newServer(t, directory, { nobodyRoot });
  await again.start();
  t.match(await query(again, 'select number from kept'), [{ number: 7 }]);
});
