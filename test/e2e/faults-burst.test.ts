/** Very many jobs at once: all are taken and run, memory stays bounded, and no agent waits for its heartbeat. */
import { test } from 'tap';
import { connect } from '../../sdk/connect.js';
import { query } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { residentBytes } from '../support/leftovers.js';
import { startMesh } from '../support/mesh.js';
import { submitShell } from '../support/submit-shell.js';

const MEBIBYTE = 2 ** 20;
/** Three missed heartbeats are less than a third of the lease: a node that is never SUSPECT was always heard in time. */
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '1500ms', '--node-lease', '15s'];

test('a burst of 10,000 jobs: none lost, memory bounded, every heartbeat in time', async (t) => {
  const total = 10_000;
  const mesh = await startMesh(t, { coordinator: COORDINATOR });
  const args = ['--slots', '4', '--kill-grace', '300ms', '--stop-grace', '100ms'];
  await Promise.all(['a1', 'a2'].map((name) => mesh.startAgent(name, { args })));
  const client = await connect({ profile: mesh.profile });
  t.teardown(() => client.close());
  const script = `echo >> ${mesh.witness.path('burst')}`;
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const before = residentBytes(program.pid).now;
  const ids = new Set<string>();
  let left = total;
  const submitter = async (): Promise<void> => {
    while (left-- > 0) ids.add(await submitShell(client, script));
  };
  await Promise.all(Array.from({ length: 64 }, submitter));
  t.equal(ids.size, total);
  for (let seen = 1000; seen <= total; seen += 1000) await mesh.witness.seen('burst', seen);
  const [ended] = await eventually('all jobs to end', () =>
    query(mesh, async (sql) => {
      const rows =
        await sql`select count(*)::int as count, count(*) filter (where status = 'COMPLETED')::int as completed
                             from job where id = any(${[...ids]}) and completed_at is not null`;
      return rows[0]?.count === total ? rows : undefined;
    }),
  );
  t.equal(ended?.completed, total);
  t.equal(mesh.witness.lines('burst').length, total, 'each ran once');
  const { peak } = residentBytes(program.pid);
  t.comment(`coordinator: ${Math.round(before / MEBIBYTE)} MiB before, ${Math.round(peak / MEBIBYTE)} MiB at most`);
  t.ok(peak < 400 * MEBIBYTE);
  t.strictSame(
    program.events.slice(mark).filter(({ event }) => event === 'node.suspect'),
    [],
  );
});
