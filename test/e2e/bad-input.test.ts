/** Whatever is wrong, people read one line that says what, why and what to do, and nothing is left half-made. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import postgres from 'postgres';
import t, { after, before, type Test, test } from 'tap';
import { ERRORS, type ErrorCode } from '../../common/errors.js';
import type { CommandResult } from '../support/command.js';
import { type Mesh, type Page, startMesh } from '../support/mesh.js';
import { urlOf, withDatabase } from '../support/postgres.js';

let mesh: Mesh;
let listener: Server;
let takenPort = 0;
/** Nobody listens there. */
let closedPort = 0;

before(async () => {
  mesh = await startMesh(t, { agents: ['a1'] });
  listener = createServer();
  takenPort = await listen(listener);
  const other = createServer();
  closedPort = await listen(other);
  await new Promise((resolve) => other.close(resolve));
});

after(() => listener?.close());

const listen = (server: Server): Promise<number> =>
  new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port));
  });

/** One line on standard error, the exit code of the contract, and nothing on standard output but JSON logs. */
function refused(t: Test, title: string, result: CommandResult, code: ErrorCode, message: RegExp): void {
  t.equal(result.code, ERRORS[code].exit, `${title}: exit code`);
  t.match(result.stderr, /^mesh(?:-[a-z]+)?: [^\n]+; [^\n]+\n$/, `${title}: one line`);
  t.match(result.stderr, message, title);
  for (const line of result.stdout.split('\n').filter(Boolean))
    t.doesNotThrow(() => JSON.parse(line), `${title}: nothing but logs beside it`);
}

/** The same under --json: one document on standard error and nothing else at all. */
function refusedAsJson(t: Test, title: string, result: CommandResult, code: ErrorCode, message: RegExp): void {
  t.equal(result.code, ERRORS[code].exit, `${title}: exit code`);
  t.match(result.stderr, /^[^\n]+\n$/, `${title}: one line`);
  t.equal(result.stdout, '', `${title}: nothing else`);
  const { error, ...rest } = JSON.parse(result.stderr) as { error: Record<string, string> };
  t.strictSame(rest, {});
  t.strictSame(Object.keys(error).sort(), ['code', 'hint', 'message']);
  t.equal(error.code, code, title);
  t.match(error.message, message, title);
  t.not(error.hint, '');
}

const untouched = (t: Test, path: string): void => {
  t.notOk(existsSync(path), `${path.split('/').at(-1)} was not made`);
};

test('commands and flags that do not exist', async (t) => {
  const results = await Promise.all([
    mesh.cli('jobs', '--bogus'),
    mesh.cli('bogus'),
    mesh.run('coordinator', ['--data', join(mesh.root, 'flag-1'), '--bogus']),
    mesh.run('agent', ['--data', join(mesh.root, 'flag-2'), '--bogus']),
    mesh.ca('list', '--bogus'),
  ]);
  for (const [index, result] of results.entries()) refused(t, `case ${index}`, result, 'USAGE', /bogus/);
  refusedAsJson(t, 'flag', await mesh.cli('nodes', '--json', '--bogus'), 'USAGE', /--bogus/);
  untouched(t, join(mesh.root, 'flag-1'));
  untouched(t, join(mesh.root, 'flag-2'));
});

test('values that do not parse', async (t) => {
  const data = join(mesh.root, 'values');
  const file = join(mesh.root, 'broken.toml');
  writeFileSync(file, 'port = = 1\n');
  const cases: [Promise<CommandResult>, ErrorCode, RegExp][] = [
    [mesh.run('coordinator', ['--data', data, '--port', '70000']), 'USAGE', /--port/],
    [mesh.run('coordinator', ['--data', data, '--node-lease', 'soon']), 'USAGE', /--node-lease/],
    [mesh.run('coordinator', ['--data', data, '--config', file]), 'BAD_CONFIG', /broken\.toml is not valid TOML/],
    [mesh.run('coordinator', ['--data', data], { env: { MESH_PORT: 'x' } }), 'BAD_CONFIG', /MESH_PORT/],
    [mesh.run('coordinator', ['--data', data, '--database-url', 'mysql://h/d']), 'BAD_CONFIG', /--database-url/],
    [mesh.run('agent', ['--data', data, '--label', 'no label']), 'USAGE', /no label/],
  ];
  for (const [running, code, message] of cases) refused(t, String(message), await running, code, message);
  untouched(t, data);
});

test('jobs that cannot be: refused before anything is sent', async (t) => {
  const submit = (...args: string[]) => mesh.cli('submit', '--json', ...args);
  const cases: [string[], ErrorCode, RegExp][] = [
    [[], 'BAD_SPEC', /no command/],
    [['--array', '0-9999999999', '--', 'true'], 'USAGE', /10000000000 tasks/],
    [['--array', '5-1', '--', 'true'], 'USAGE', /counts down/],
    [['--where', 'os = = linux', '--', 'true'], 'BAD_SELECTOR', /does not parse/],
    [['--each', 'nothing/*.here', '--', 'cat', '{}'], 'USAGE', /nothing matches/],
    [['--fn', 'absent.mjs'], 'BAD_SPEC', /absent\.mjs is not there/],
    [['--memory', 'much', '--', 'true'], 'USAGE', /--memory/],
    [['--priority', '101', '--', 'true'], 'USAGE', /--priority/],
    [['--env', '=x', '--', 'true'], 'USAGE', /--env/],
    [['--on-failure', 'cry', '--', 'true'], 'USAGE', /--on-failure/],
  ];
  const before = await mesh.cli('jobs', '--json');
  for (let from = 0; from < cases.length; from += 3) {
    const some = cases.slice(from, from + 3);
    const results = await Promise.all(some.map(([args]) => submit(...args)));
    for (const [index, result] of results.entries()) {
      const [args, code, message] = some[index] as (typeof cases)[number];
      refusedAsJson(t, args.join(' '), result, code, message);
    }
  }
  t.strictSame((await mesh.cli('jobs', '--json')).json(), before.json(), 'no job was made');
});

test('no profile, a profile of nowhere, and a coordinator that is not there', async (t) => {
  const nobody = { MESH_PROFILE: '', XDG_CONFIG_HOME: join(mesh.root, 'nobody') };
  const away = join(mesh.root, 'away');
  cpSync(mesh.profile, away, { recursive: true });
  const profile = JSON.parse(readFileSync(join(away, 'profile.json'), 'utf8')) as { coordinators: string[] };
  profile.coordinators = [`127.0.0.1:${closedPort}`];
  writeFileSync(join(away, 'profile.json'), JSON.stringify(profile));
  // A profile that trusts another mesh, sent to this one.
  t.equal((await mesh.ca('init', '--dir', join(mesh.root, 'third-ca'))).code, 0);
  const trusting = join(mesh.root, 'trusting');
  cpSync(mesh.profile, trusting, { recursive: true });
  cpSync(join(mesh.root, 'third-ca/ca.crt'), join(trusting, 'ca.crt'));
  const [none, absent, unreachable, foreign] = await Promise.all([
    mesh.cliWith({ env: nobody }, 'jobs'),
    mesh.cli('jobs', '--profile', join(mesh.root, 'absent')),
    mesh.cli('jobs', '--json', '--profile', away),
    mesh.cli('jobs', '--profile', trusting),
  ]);
  refused(t, 'none', none, 'NO_PROFILE', /no profile/);
  refused(t, 'absent', absent, 'NO_PROFILE', /absent/);
  refusedAsJson(t, 'away', unreachable, 'UNREACHABLE', /./);
  refused(t, 'trusts another', foreign, 'UNREACHABLE', /./);
});

test('join tokens that will not do', async (t) => {
  const { address } = mesh.coordinator.ready;
  const join1 = (name: string, token: string) =>
    mesh.run('agent', ['--data', join(mesh.root, name), '--coordinator', address, '--join', token]);
  const good = await mesh.token();
  const damaged = `${good.slice(0, -3)}${good.endsWith('aaa') ? 'bbb' : 'aaa'}`;
  for (const [name, token] of [
    ['garbage', 'not-a-token'],
    ['damaged', damaged],
  ] as const) {
    refused(t, name, await join1(`token-${name}`, token), 'BAD_TOKEN', /token/);
    untouched(t, join(mesh.root, `token-${name}`));
  }
  const profile = join(mesh.root, 'token-login');
  refused(t, 'login', await mesh.cli('login', 'nonsense', '--profile', profile), 'BAD_TOKEN', /token/);
  untouched(t, profile);

  await withSql(async (sql) => {
    await sql`update join_token set expires_at = now() - interval '1 second'`;
  });
  refused(t, 'expired', await join1('token-expired', good), 'TOKEN_REFUSED', /expired/);

  const spent = await mesh.token();
  const first = await mesh.startAgent('spender', { args: ['--join', spent] });
  refused(t, 'spent', await join1('token-spent', spent), 'TOKEN_REFUSED', /spent/);
  await first.program.stop();

  const made = (await mesh.cli('token', 'create', '--json')).json<{ id: string; token: string }>();
  t.equal((await mesh.cli('token', 'revoke', made.id)).code, 0);
  refused(t, 'revoked', await join1('token-revoked', made.token), 'TOKEN_REFUSED', /./);
  for (const name of ['expired', 'spent', 'revoked']) untouched(t, join(mesh.root, `token-${name}`, 'agent.crt'));
  const names = (await mesh.nodes()).map((node) => node.name);
  t.strictSame(names.sort(), ['a1', 'spender'], 'nobody else got in');

  refused(t, 'no token', await mesh.run('agent', ['--data', join(mesh.root, 'tokenless')]), 'USAGE', /has not joined/);
});

/** A connection to the coordinator's own PostgreSQL. */
async function withSql(work: (sql: postgres.Sql) => Promise<void>): Promise<void> {
  const [socket] = readdirSync(join(mesh.root, 'tmp')).filter((name) => name.startsWith('mesh-pg-'));
  const password = readFileSync(join(mesh.coordinator.dataDir, 'postgres/password'), 'utf8').trim();
  const host = join(mesh.root, 'tmp', String(socket));
  const sql = postgres({ host, port: 5432, user: 'mesh', password, database: 'mesh', max: 1 });
  try {
    await work(sql);
  } finally {
    await sql.end();
  }
}

test('certificates of another mesh', async (t) => {
  const other = join(mesh.root, 'other-ca');
  t.equal((await mesh.ca('init', '--dir', other)).code, 0);
  const out = join(mesh.root, 'stranger');
  for (const role of ['agent', 'operator'])
    t.equal((await mesh.ca('issue', `the-${role}`, '--role', role, '--dir', other, '--out', out)).code, 0);
  const { address, adminProfile } = mesh.coordinator.ready;
  const ours = join(adminProfile, 'ca.crt');
  const files = ['--cert', join(out, 'the-agent.crt'), '--key', join(out, 'the-agent.key'), '--ca', ours];
  const data = join(mesh.root, 'stranger-agent');
  const agent = await mesh.run('agent', ['--data', data, '--coordinator', address, ...files]);
  refused(t, 'agent', agent, 'BAD_CERTIFICATE', /mesh/);
  untouched(t, join(data, 'agent.crt'));

  const profile = mesh.folder('stranger-profile');
  cpSync(join(out, 'the-operator.crt'), join(profile, 'client.crt'));
  cpSync(join(out, 'the-operator.key'), join(profile, 'client.key'));
  for (const file of ['ca.crt', 'profile.json']) cpSync(join(adminProfile, file), join(profile, file));
  const presented = await mesh.cli('jobs', '--profile', profile);
  refused(t, 'presents another', presented, 'UNAUTHENTICATED', /mesh/);
});

test('data directories that cannot be used', async (t) => {
  const file = join(mesh.root, 'a-file');
  writeFileSync(file, 'content\n');
  const token = await mesh.token();
  for (const path of [file, '/proc/nowhere']) {
    const [coordinator, agent] = await Promise.all([
      mesh.run('coordinator', ['--data', path, '--port', '0']),
      mesh.run('agent', ['--data', path, '--join', token]),
    ]);
    refused(t, path, coordinator, 'DATA_DIR', /cannot/);
    refused(t, path, agent, 'DATA_DIR', /cannot/);
  }
  t.equal(readFileSync(file, 'utf8'), 'content\n');
});

test('what somebody else holds: the data directory, the port', async (t) => {
  const { dataDir, ready } = mesh.coordinator;
  const [second, twin] = await Promise.all([
    mesh.run('coordinator', ['--data', dataDir, '--port', '0']),
    mesh.run('agent', ['--data', join(mesh.root, 'agent-a1'), '--coordinator', ready.address]),
  ]);
  refused(t, 'second coordinator', second, 'IN_USE', /already runs/);
  refused(t, 'second agent', twin, 'IN_USE', /already runs/);
  const data = mesh.folder('port');
  const flags = ['--data', data, '--no-mdns', '--listen', '127.0.0.1'];
  const taken = await mesh.run('coordinator', [...flags, '--port', `${takenPort}`]);
  refused(t, 'port', taken, 'IN_USE', new RegExp(`${takenPort}`));
  t.match((await mesh.cli('nodes', '--json')).json<Page<{ name: string }>>().items[0], {
    name: 'a1',
    state: 'HEALTHY',
  });
});

test('databases that cannot be used: down, of a newer version, of another mesh', async (t) => {
  const start = (name: string, url: string) =>
    mesh.run('coordinator', ['--data', join(mesh.root, name), '--port', '0', '--no-mdns', '--database-url', url]);
  const down = await start('db-down', `postgres://mesh:s3cret@127.0.0.1:${closedPort}/mesh`);
  refused(t, 'down', down, 'DATABASE_DOWN', new RegExp(`127\\.0\\.0\\.1:${closedPort}`));
  t.notMatch(down.stderr + down.stdout, /s3cret/);
  untouched(t, join(mesh.root, 'db-down'));

  const newer = await withDatabase(t, { migrated: true });
  const sql = postgres({ ...newer, max: 1 });
  t.teardown(() => sql.end());
  await sql`insert into migration (name, timestamp) values ('9999_future', now()::text)`;
  refused(t, 'newer', await start('db-newer', urlOf(newer)), 'DATABASE_NEWER', /9999_future/);
  untouched(t, join(mesh.root, 'db-newer'));

  const foreign = await withDatabase(t, { migrated: true });
  const theirs = postgres({ ...foreign, max: 1 });
  t.teardown(() => theirs.end());
  await theirs`insert into setting (key, value) values ('mesh-id', 'mesh-of-somebody')`;
  refused(t, 'foreign', await start('db-foreign', urlOf(foreign)), 'DATABASE_FOREIGN', /mesh-of-somebody/);
  untouched(t, join(mesh.root, 'db-foreign'));
});

test('what does not exist, or is not in the right state', async (t) => {
  const cases: [string[], ErrorCode][] = [
    [['job', 'nosuchjob'], 'NOT_FOUND'],
    [['tasks', 'nosuchjob.3'], 'NOT_FOUND'],
    [['logs', 'nosuchjob'], 'NOT_FOUND'],
    [['cancel', 'nosuchjob'], 'NOT_FOUND'],
    [['drain', 'nosuchnode'], 'NOT_FOUND'],
    [['token', 'revoke', 'nosuchtoken'], 'NOT_FOUND'],
    [['job', 'a/b'], 'USAGE'],
  ];
  for (let from = 0; from < cases.length; from += 3) {
    const some = cases.slice(from, from + 3);
    const results = await Promise.all(some.map(([args]) => mesh.cli(...args, '--json')));
    for (const [index, result] of results.entries()) {
      const [args, code] = some[index] as (typeof cases)[number];
      refusedAsJson(t, args.join(' '), result, code, /nosuch|a\/b/);
    }
  }
});

test('mesh-ca says it the same way', async (t) => {
  const dir = mesh.folder('not-a-ca');
  mkdirSync(join(dir, 'out'));
  const out = join(dir, 'out');
  const cases: [Promise<CommandResult>, ErrorCode, RegExp][] = [
    [mesh.ca('issue', 'Bad_Name', '--role', 'agent', '--out', out, '--dir', dir), 'BAD_NAME', /Bad_Name/],
    [mesh.ca('issue', 'x', '--role', 'king', '--out', out, '--dir', dir), 'USAGE', /king/],
    [mesh.ca('issue', 'x', '--role', 'agent', '--out', out, '--days', '4000'), 'USAGE', /days/],
  ];
  for (const [running, code, message] of cases) refused(t, String(message), await running, code, message);
  const absent = await mesh.ca('issue', 'x', '--role', 'agent', '--out', out, '--dir', dir);
  t.not(absent.code, 0);
  t.match(absent.stderr, /^mesh-ca: [^\n]+\n$/, 'a directory without an authority');
  t.strictSame(readdirSync(out), [], 'nothing was written');
});
