/** Faults while there is much to do: many tasks running, many cancellations at once, many results to commit. */
import t, { before, test } from 'tap';
import { systemCode } from '../../common/errors.js';
import { connect, type MeshConnection } from '../../sdk/connect.js';
import { postmasterPid, query } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { submitShell } from '../support/submit-shell.js';
import { SeededRandom } from '../support/random.js';

const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '1500ms', '--node-lease', '15s'];
const AGENT = ['--kill-grace', '300ms', '--stop-grace', '100ms'];
let mesh: Mesh;
let traces: string;
let client: MeshConnection;

before(async () => {
  mesh = await startMesh(t, { coordinator: COORDINATOR });
  traces = mesh.witness.folder;
  await Promise.all([
    mesh.startAgent('a1', { args: [...AGENT, '--slots', '500', '--label', 'size=large'] }),
    mesh.startAgent('a2', { args: [...AGENT, '--slots', '500', '--label', 'size=large'] }),
    mesh.startAgent('a3', { args: [...AGENT, '--slots', '4', '--label', 'size=small'] }),
  ]);
  client = await connect({ profile: mesh.profile });
});
t.teardown(() => client?.close());

const submit = (script: string, options: { tasks?: number; where?: string } = {}): Promise<string> =>
  submitShell(client, script, { where: 'size=small', ...options });

test('the coordinator dies in the middle of 1000 running tasks: none of them runs again', async (t) => {
  const total = 1000;
  const gate = mesh.witness.gate('thousand-gate');
  const script = `echo >> ${traces}/thousand; read x < ${gate.path}; echo >> ${traces}/thousand-ends`;
  const id = await submit(script, { tasks: total, where: 'size=large' });
  await mesh.witness.seen('thousand', total);
  await client.close();
  await mesh.coordinator.program.kill();
  // Some end while nobody is there to hear it.
  gate.open(100);
  await mesh.witness.seen('thousand-ends', 100);
  await mesh.startCoordinator({ args: COORDINATOR });
  const { program } = mesh.coordinator;
  const back = await Promise.all(
    ['a1', 'a2'].map((name) => program.logged('node.connected', ({ node }) => node === name)),
  );
  for (const event of back) t.match(event, { superseded: 0, resent: 0 });
  gate.open(total - 100);
  t.match(await mesh.wait(id), { status: 'COMPLETED', tasks: { total, completed: total } });
  t.equal(mesh.witness.lines('thousand').length, total);
  const [again] = await query(
    mesh,
    (sql) => sql`select count(*)::int from task where job = (select seq from job where id = ${id})
                 and (generation <> 1 or losses > 0 or failures > 0)`,
  );
  t.equal(again?.count, 0);
  client = await connect({ profile: mesh.profile });
});

test('many cancellations race with many ends: each caller is told who won, and the counters agree', async (t) => {
  const random = new SeededRandom(16);
  const jobs = 120;
  const tasks = 3;
  const trace = `${traces}/race`;
  const script = `echo "$MESH_JOB_ID $MESH_INDEX" >> ${trace}`;
  const told = new Map<string, { won: boolean; cancelled: number }>();
  const race = async (): Promise<void> => {
    const id = await submit(script, { tasks });
    const after = random.integer(0, tasks);
    const mine = () => mesh.witness.lines('race').filter((line) => line.startsWith(id)).length;
    await eventually(`${after} tasks of ${id}`, () => mine() >= after);
    try {
      const { cancelled } = await client.mesh.cancelJob({ id });
      told.set(id, { won: true, cancelled });
    } catch (error) {
      if (systemCode(error) !== 'CONFLICT') throw error;
      told.set(id, { won: false, cancelled: 0 });
    }
  };
  for (let begun = 0; begun < jobs; begun += 12) await Promise.all(Array.from({ length: 12 }, race));
  const ran = mesh.witness.lines('race');
  t.equal(new Set(ran).size, ran.length, 'nothing ran twice');
  let [won, lost] = [0, 0];
  for (const [id, { won: cancelWon, cancelled }] of told) {
    const job = await jobOf(id);
    const counts = job.tasks;
    const completed = (await tasksOf(id)).filter(({ status }) => status === 'COMPLETED');
    const sums = counts?.completed === completed.length && counts.completed + counts.cancelled === tasks;
    const all = completed.every(({ index }) => ran.includes(`${id} ${index}`));
    const asTold = cancelWon ? job.status === 'CANCELLED' : job.status === 'COMPLETED';
    if (!sums || !all || !asTold || counts?.cancelled !== cancelled)
      t.fail(`told ${cancelWon ? `${cancelled} cancelled` : 'ended already'}, became`, { job, completed });
    if (cancelWon) won++;
    else lost++;
  }
  t.equal(told.size, jobs);
  t.comment(`${won} cancelled, ${lost} had ended already`);
});

async function jobOf(id: string) {
  const { job } = await client.mesh.getJob({ id });
  if (!job) throw new Error(`there is no job ${id}`);
  return job;
}

const tasksOf = async (job: string) => (await client.mesh.listTasks({ job, status: '', limit: 100, cursor: '' })).items;

test('PostgreSQL is killed under load: the coordinator survives, nothing accepted is lost', async (t) => {
  const { program } = mesh.coordinator;
  const total = 600;
  const id = await submit(`echo $MESH_INDEX >> ${traces}/database`, { tasks: total });
  for (const count of [50, 300]) {
    await mesh.witness.seen('database', count);
    const mark = program.mark();
    process.kill(postmasterPid(mesh.coordinator.dataDir), 'SIGKILL');
    await program.logged('postgres.restarted', undefined, mark);
  }
  t.match(await mesh.wait(id), { status: 'COMPLETED', tasks: { total, completed: total, failed: 0 } });
  const ran = mesh.witness.lines('database').map(Number);
  t.equal(new Set(ran).size, total);
  t.equal(ran.length, total, 'nothing ran again: results waited for the database');
  t.ok(program.running);
});
