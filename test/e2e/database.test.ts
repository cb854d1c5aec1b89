/**
 * The coordinator and a database of its own: one that dies under load, fails over to a standby, hides behind a pooler in
 * transaction mode, or is slow. Tasks append to a file, so that one that runs twice is seen.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import type { JobShape } from '../../sdk/shapes.js';
import { DatabaseServer, noPgbouncer, startPooler } from '../support/database-server.js';
import { type Mesh, startMesh } from '../support/mesh.js';

const shell = (script: string, ...words: string[]): string[] => ['--', 'sh', '-c', script, 'sh', ...words];
const TASKS = 300;

interface Listening {
  mesh: Mesh;
  /** The file each task of the job writes its number to when it begins. */
  begun: string;
}

async function startOn(t: Test, url: string, ...flags: string[]): Promise<Listening> {
  const mesh = await startMesh(t, {
    coordinator: ['--database-url', url, ...flags],
    agents: ['a1', 'a2'],
    agent: ['--slots', '2'],
  });
  return { mesh, begun: 'begun' };
}

const submitMany = ({ mesh, begun }: Listening): Promise<JobShape> =>
  mesh.submit('--array', `0-${TASKS - 1}`, ...shell(`echo "$MESH_INDEX" >> ${mesh.witness.path(begun)}; sleep 0.02`));

/** Every task ran, none twice, and the mesh counts the same. */
function exactlyOnce(t: Test, { mesh, begun }: Listening, job: JobShape): void {
  t.match(job, { status: 'COMPLETED', tasks: { total: TASKS, completed: TASKS, failed: 0 } });
  const lines = mesh.witness.lines(begun);
  t.equal(new Set(lines).size, TASKS, 'every task ran');
  t.equal(lines.length, TASKS, 'none ran twice');
}

test('PostgreSQL is killed under load, again and again, and nothing is lost or run twice', async (t) => {
  const server = await DatabaseServer.start(t);
  const on = await startOn(t, server.url);
  const job = await submitMany(on);
  for (const count of [10, 80, 160, 240]) {
    await on.mesh.witness.seen(on.begun, count);
    await server.kill();
    await server.run();
  }
  // Acknowledged while the database comes and goes: the command tries again by itself.
  await server.kill();
  const patient = on.mesh.submit(...shell('true'));
  await server.run();
  t.match(await on.mesh.wait((await patient).id), { status: 'COMPLETED' });
  exactlyOnce(t, on, await on.mesh.wait(job.id));
  t.equal(on.mesh.coordinator.program.running, true, 'the coordinator is the same process');
});

test('a standby is promoted: the mesh goes on there', async (t) => {
  const primary = await DatabaseServer.start(t);
  const standby = await primary.follow(t);
  // From here on what is acknowledged is in both.
  await primary.query("alter system set synchronous_standby_names = '*'");
  await primary.query('select pg_reload_conf()');
  const both = primary.url.replace('@127.0.0.1:', `@127.0.0.1:${standby.port},127.0.0.1:`);
  const on = await startOn(t, `${both}&target_session_attrs=read-write`);
  const job = await submitMany(on);
  await on.mesh.witness.seen(on.begun, 60);
  await primary.kill();
  await standby.promote();
  exactlyOnce(t, on, await on.mesh.wait(job.id));
  const [row] = await standby.query(`select completed from job where id = '${job.id}'`);
  t.match(row, { completed: TASKS }, 'it is all in the former standby');
});

test('a server that only reads is no database to start on', async (t) => {
  const server = await DatabaseServer.start(t);
  const standby = await server.follow(t);
  const refused = await startMesh(t, { coordinator: ['--database-url', standby.url] }).catch((error: Error) => error);
  t.match(refused, { message: /is a read-only standby; name the primary/ });
});

test('a whole job through a pooler in transaction mode', { skip: noPgbouncer }, async (t) => {
  const server = await DatabaseServer.start(t);
  const pooler = await startPooler(t, server);
  const on = await startOn(t, pooler.url, '--no-prepared-statements');
  const { mesh } = on;
  const settings = await server.query(
    'select unnest(setconfig) as setting from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase',
  );
  const names = settings.map(({ setting }) => String(setting));
  t.ok(names.includes('plan_cache_mode=force_generic_plan'), 'the role has what sessions begin with elsewhere');
  t.ok(names.some((name) => name.startsWith('idle_in_transaction_session_timeout=')));
  exactlyOnce(t, on, await mesh.wait((await submitMany(on)).id));

  const bytes = randomBytes(3_000_000);
  const cwd = mesh.folder('here');
  writeFileSync(join(cwd, 'one.bin'), bytes);
  const staged = await mesh.cliWith(
    { cwd },
    'submit',
    '--each',
    '*.bin',
    '--results',
    '--json',
    ...shell('wc -c < "$1"', '{}'),
  );
  t.equal(staged.code, 0, staged.stderr);
  t.match(staged.json(), { result: `${bytes.length}\n` });
  t.match(await server.query('select count(*)::integer as parts from blob_content'), [{ parts: 3 }]);
  t.match(await mesh.cli('cancel', (await mesh.submit(...shell('sleep 60'))).id), { code: 0 });
});

test('every statement takes longer than a lease: the leader leads on, and no node is missed', async (t) => {
  const server = await DatabaseServer.start(t);
  const flags = ['--leader-lease', '1s', '--heartbeat', '200ms', '--node-lease', '1500ms'];
  const on = await startOn(t, server.url, ...flags);
  const { mesh, begun } = on;
  const { program } = mesh.coordinator;
  await server.query(`
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(3); return null; end $$;
    create trigger slow after update on task for each statement execute function slow()`);
  const from = program.mark();
  const renewals = async () => Number((await server.query('select renewals from leader'))[0]?.renewals);
  const before = await renewals();
  const job = await mesh.submit('--array', '0-19', ...shell(`echo "$MESH_INDEX" >> ${mesh.witness.path(begun)}`));
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 20 } });
  t.equal(mesh.witness.lines(begun).length, 20, 'none ran twice');
  t.ok((await renewals()) > before + 5, 'the lease was renewed meanwhile');
  const missed = program.events
    .slice(from)
    .filter(({ event }) => event?.startsWith('node.') || event === 'leader.lost');
  t.same(missed, []);
});
