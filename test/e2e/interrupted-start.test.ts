/** SIGTERM while a coordinator or an agent starts ends it at once and cleanly, whatever its start waits for. */
import { existsSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { sql } from 'kysely';
import { type Test, test } from 'tap';
import { encodeToken } from '../../common/identity/token.js';
import { eventually } from '../support/eventually.js';
import { makeMesh, type Mesh } from '../support/mesh.js';
import { openTestStore, withDatabase } from '../support/postgres.js';

const CLEAN = { code: 0, signal: null };
/** What Kysely takes while it migrates PostgreSQL. */
const MIGRATION_LOCK = '3853314791062309107';

const launch = (mesh: Mesh, data: string, ...args: string[]) =>
  mesh.launch('coordinator', ['--data', data, '--port', '0', '--no-mdns', ...args]);

/** Takes connections and says nothing. */
async function startSilent(t: Test) {
  const sockets: Socket[] = [];
  const server = createServer((socket) => void sockets.push(socket.on('error', () => undefined).resume()));
  const connected = new Promise((resolve) => server.once('connection', resolve));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as { port: number };
  return { port, connected };
}

test('while the database takes connections and says nothing', async (t) => {
  const mesh = makeMesh(t);
  const { port, connected } = await startSilent(t);
  const data = join(mesh.root, 'coordinator');
  const program = launch(mesh, data, '--database-url', `postgres://mesh:secret@127.0.0.1:${port}/mesh?sslmode=disable`);
  await connected;
  t.same(await program.stop(), CLEAN);
  t.equal(program.stderr, '', 'what was asked for is no error');
  t.notOk(existsSync(data), 'nothing new is there');
});

test('while another coordinator migrates', async (t) => {
  const mesh = makeMesh(t);
  const connection = await withDatabase(t, { migrated: false });
  const { host, port, user, password, database } = connection;
  const other = await openTestStore(t, connection, { poolMax: 1 });
  await sql`select pg_advisory_lock(${sql.raw(MIGRATION_LOCK)})`.execute(other.database.kysely);
  const place = host.startsWith('/') ? `?host=${encodeURIComponent(host)}&port=${port}` : '';
  const server = host.startsWith('/') ? 'localhost' : `${host}:${port}`;
  const url = `postgres://${user}:${encodeURIComponent(password)}@${server}/${database}${place}`;
  const program = launch(mesh, join(mesh.root, 'coordinator'), '--database-url', url);
  await eventually('it to wait for the lock', async () => {
    const { rows } = await sql`
      select 1 from pg_stat_activity where datname = current_database() and wait_event = 'advisory'`.execute(
      other.database.kysely,
    );
    return rows.length > 0;
  });
  t.same(await program.stop(), CLEAN);
});

test('while its own PostgreSQL starts', async (t) => {
  const mesh = makeMesh(t);
  const data = join(mesh.root, 'coordinator');
  const program = launch(mesh, data);
  await eventually('the cluster to be made', () => existsSync(join(data, 'postgres', 'data', 'PG_VERSION')));
  t.same(await program.stop(), CLEAN);
  t.notOk(existsSync(join(data, 'postgres', 'data', 'postmaster.pid')), 'no server is left');
});

test('an agent that looks for its mesh says that it was stopped, and nothing of jobs', async (t) => {
  const mesh = makeMesh(t);
  const { port, connected } = await startSilent(t);
  const token = encodeToken({ id: 'ab'.repeat(6), secret: 'cd'.repeat(16), rootDigest: 'ef'.repeat(32) });
  const flags = ['--data', mesh.folder('agent'), '--coordinator', `127.0.0.1:${port}`, '--no-mdns', '--join', token];
  const program = mesh.launch('agent', flags);
  await connected;
  program.signal('SIGTERM');
  t.equal((await program.ended).code, 130);
  t.match(program.stderr, 'stopped before it was in the mesh; start it again');
});
