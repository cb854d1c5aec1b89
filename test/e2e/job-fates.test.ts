/** What becomes of a job's tasks, as people see and steer it through the commands they type, on a mesh of two agents. */
import { writeFileSync } from 'node:fs';
import t, { before, test } from 'tap';
import type { JobShape } from '../../sdk/shapes.js';
import { isAlive } from '../../common/process-life.js';
import { ISO_TIME, shell, startAtticMesh } from '../support/attic-mesh.js';
import type { Mesh } from '../support/mesh.js';

interface Why {
  job: string;
  index: number | null;
  status: string;
  chosen: string | null;
  nodes: {
    name: string;
    feasible: boolean;
    reason: string;
    score: number | null;
    terms: Record<string, number>;
  }[];
}

let mesh: Mesh;
/** Where tasks leave their traces. */
let traces: string;

before(async () => {
  mesh = await startAtticMesh(t);
  traces = mesh.witness.folder;
});

test('a task that fails runs again, elsewhere, and every attempt is counted', async (t) => {
  const script = `echo "$MESH_ATTEMPT $MESH_GENERATION $MESH_NODE" >> ${traces}/tries; echo "try $MESH_ATTEMPT"; test $MESH_ATTEMPT = 3`;
  const job = await mesh.submit('--wait', '--retries', '2', '--backoff', '10ms', ...shell(script));
  t.equal(job.status, 'COMPLETED');
  const tries = mesh.witness.lines('tries').map((line) => line.split(' '));
  t.strictSame(
    tries.map(([attempt]) => attempt),
    ['1', '2', '3'],
  );
  t.equal(new Set(tries.slice(0, 2).map(([, , node]) => node)).size, 2, 'not twice where it failed');
  const [task] = await mesh.tasks(job.id);
  t.match(task, {
    ...{ job: job.id, index: 0, status: 'COMPLETED', attempts: 3, maxAttempts: 3, failures: 2, losses: 0, exitCode: 0 },
    ...{ generation: Number(tries[2]?.[1]), node: tries[2]?.[2], result: 'try 3\n' },
    ...{ queuedAt: ISO_TIME, assignedAt: ISO_TIME, startedAt: ISO_TIME, finishedAt: ISO_TIME },
  });
  t.match(await mesh.cli('logs', `${job.id}.0#1`), { stdout: 'try 1\n' });

  const hopeless = await mesh.submit('--wait', '--retries', '1', '--backoff', '10ms', ...shell('exit 9'));
  t.equal(hopeless.status, 'FAILED');
  const expected = { status: 'FAILED', attempts: 2, maxAttempts: 2, failures: 2, exitCode: 9, lastError: /9/ };
  t.match(await mesh.tasks(hopeless.id), [expected]);
});

/** Starts a child in the group, one in a session of its own that closes everything, and names all three. */
const treeScript = (file: string): string =>
  [
    'sleep 600 & group=$!',
    'mkfifo free',
    "setsid sh -c 'echo $$ > free; exec sleep 600 > /dev/null 2>&1' &",
    'read free < free',
    `echo "$$ $group $free" >> ${traces}/${file}`,
    'wait',
  ].join('\n');

async function treeOf(file: string): Promise<number[]> {
  const [line = ''] = await mesh.witness.seen(file);
  return line.split(' ').map(Number);
}

test('a task that takes too long is ended with everything it started', async (t) => {
  const submitting = mesh.submit('--wait', '--timeout', '3s', '--retries', '0', ...shell(treeScript('slow')));
  const pids = await treeOf('slow');
  t.equal(pids.length, 3);
  t.ok(pids.every(isAlive), 'the tree runs');
  const job = await submitting;
  t.equal(job.status, 'FAILED');
  t.match(await mesh.tasks(job.id), [{ status: 'FAILED', attempts: 1, lastError: /timed out after 3 s/ }]);
  t.notOk(pids.some(isAlive), 'none of it is left');
});

test('cancelling ends what runs, and its capacity is free again', async (t) => {
  const job = await mesh.submit('--array', '0-9', '--where', 'name=a2', ...shell(treeScript('cancelled')));
  const pids = await treeOf('cancelled');
  const waiting = mesh.watch('wait', '--json', job.id);
  const cancel = await mesh.cli('cancel', '--json', job.id);
  t.equal(cancel.code, 0);
  t.match(cancel.json(), { id: job.id, cancelled: 10 });
  const ended = await waiting.result;
  t.equal(ended.code, 1);
  t.match(ended.json(), { status: 'CANCELLED', tasks: { cancelled: 10, running: 0, queued: 0, assigned: 0 } });
  // a2 has one slot; it falls free when the agent says that the task is dead.
  const next = await mesh.submit('--wait', '--where', 'name=a2', '--', 'true');
  t.equal(next.status, 'COMPLETED');
  t.notOk(pids.some(isAlive), 'the tree is dead');
  t.equal(mesh.witness.lines('cancelled').length, 1, 'nothing else of it started');
  t.match(await mesh.tasks(`${job.id}.0`), [{ status: 'CANCELLED' }]);
  t.match((await mesh.cli('cancel', '--json', job.id)).error(), { code: 'CONFLICT' });
});

test('what a failed task means for the others is up to the job', async (t) => {
  const script = 'test $MESH_INDEX != 1';
  const run = (policy: string) =>
    mesh.cli(
      'submit',
      '--json',
      '--wait',
      '--array',
      '0-3',
      '--retries',
      '0',
      '--on-failure',
      policy,
      ...shell(script),
    );
  const [finish, partial] = await Promise.all([run('finish'), run('partial')]);
  t.match(finish.json(), { status: 'FAILED', tasks: { completed: 3, failed: 1, cancelled: 0 } });
  t.match(partial.json(), { status: 'PARTIALLY_COMPLETED', tasks: { completed: 3, failed: 1, cancelled: 0 } });
  t.match([finish.code, partial.code], [1, 1], 'only a completed job is success');

  const gate = mesh.witness.gate('fast-gate');
  const fast = await mesh.submit(
    ...['--wait', '--array', '0-40', '--retries', '0', '--on-failure', 'fail-fast'],
    ...shell(`echo $MESH_INDEX >> ${traces}/fast; test $MESH_INDEX != 0 && read x < ${gate.path}`),
  );
  t.match(fast, { status: 'FAILED', tasks: { total: 41, failed: 1, completed: 0, cancelled: 40 } });
  t.match(fast.error, /./, 'it says why');
  t.ok(mesh.witness.lines('fast').length < 41, 'most never started');
});

test('retry runs what did not complete again, as a new job', async (t) => {
  const script = `echo $MESH_INDEX >> ${traces}/again; test $MESH_INDEX != 12 || test -e ${traces}/mended`;
  const job = await mesh.submit('--wait', '--array', '10-13', '--retries', '0', ...shell(script));
  t.equal(job.status, 'FAILED');
  writeFileSync(mesh.witness.path('mended'), '');
  const retried = await mesh.cli('retry', '--json', job.id);
  t.equal(retried.code, 0);
  t.match(retried.json<JobShape>(), { retryOf: job.id, tasks: { total: 1 } });
  const ended = await mesh.wait(retried.json<JobShape>().id);
  t.equal(ended.status, 'COMPLETED');
  t.not(ended.id, job.id);
  t.strictSame(mesh.witness.lines('again').sort(), ['10', '11', '12', '12', '13']);
  t.match(await mesh.job(job.id), { status: 'FAILED' }, 'the first job stays as it was');
  t.equal((await mesh.cli('retry', ended.id)).code, 1, 'nothing is left to retry');
});

test('a higher priority goes first', async (t) => {
  const gate = mesh.witness.gate('order-gate');
  const on = ['--where', 'name=a2'];
  const first = await mesh.submit(...on, ...shell(`echo up >> ${traces}/order-up; read x < ${gate.path}`));
  await mesh.witness.seen('order-up');
  const submit = (priority: number) =>
    mesh.submit(...on, '--priority', `${priority}`, ...shell(`echo ${priority} >> ${traces}/order`));
  const ids = [first.id];
  for (const priority of [-5, 0, 100, 7]) ids.push((await submit(priority)).id);
  gate.open();
  for (const id of ids) t.match(await mesh.wait(id), { status: 'COMPLETED' });
  t.strictSame(mesh.witness.lines('order'), ['100', '7', '0', '-5']);
});

const why = async (target: string): Promise<Why> => (await mesh.cli('why', '--json', target)).json<Why>();

test('why: what ruled each node out, or why it ran where it did', async (t) => {
  const stuck = await mesh.submit('--where', 'zone=moon', '--', 'true');
  const big = await mesh.submit('--memory', '900GiB', '--', 'true');
  const explained = await why(stuck.id);
  t.match(explained, { job: stuck.id, status: 'QUEUED', chosen: null });
  t.strictSame(explained.nodes.map(({ name }) => name).sort(), ['a1', 'a2']);
  for (const node of explained.nodes) {
    t.equal(node.feasible, false);
    t.match(node.reason, /zone/, `${node.name}: ${node.reason}`);
  }
  for (const node of (await why(big.id)).nodes) t.match(node, { feasible: false, reason: /memory/ });
  t.match((await mesh.cli('why', stuck.id)).stdout, /zone/, 'people can read it too');
  await Promise.all([mesh.cli('cancel', stuck.id), mesh.cli('cancel', big.id)]);

  const gate = mesh.witness.gate('why-gate');
  const job = await mesh.submit(
    '--where',
    'zone=attic',
    ...shell(`echo up >> ${traces}/why-up; read x < ${gate.path}`),
  );
  await mesh.witness.seen('why-up');
  const check = (explanation: Why) => {
    t.equal(explanation.chosen, 'a1');
    const chosen = explanation.nodes.find(({ name }) => name === 'a1');
    t.match(chosen, { feasible: true, score: Number });
    for (const term of ['rtt', 'load', 'queue', 'reliability']) t.type(chosen?.terms[term], 'number', term);
    t.match(
      explanation.nodes.find(({ name }) => name === 'a2'),
      { feasible: false, reason: /zone/ },
    );
  };
  check(await why(`${job.id}.0`));
  gate.open();
  await mesh.wait(job.id);
  const afterwards = await why(`${job.id}.0`);
  t.equal(afterwards.status, 'COMPLETED');
  check(afterwards);
});

test('a drained node gets nothing until it is undrained', async (t) => {
  const drain = await mesh.cli('drain', '--json', 'a1');
  t.match(drain.json(), { name: 'a1', draining: true });
  t.match(await mesh.node('a1'), { draining: true, state: 'HEALTHY' });
  const job = await mesh.submit('--wait', '--array', '0-5', '--', 'true');
  t.strictSame([...new Set((await mesh.tasks(job.id)).map(({ node }) => node))], ['a2']);
  const stuck = await mesh.submit('--where', 'name=a1', '--', 'true');
  t.match((await why(stuck.id)).nodes.find(({ name }) => name === 'a1')?.reason, /drain/);
  const undrain = await mesh.cli('undrain', '--json', 'a1');
  t.match(undrain.json(), { name: 'a1', draining: false });
  t.match(await mesh.wait(stuck.id), { status: 'COMPLETED' });
});
