/** A straggler gets a second attempt: the job ends long before the straggler would, and what it ran is killed. */
import t, { before, test } from 'tap';
import { eventually } from '../support/eventually.js';
import { isAlive } from '../../common/process-life.js';
import { type Mesh, startMesh } from '../support/mesh.js';

let mesh: Mesh;

before(async () => {
  mesh = await startMesh(t, {
    coordinator: ['--listen', '127.0.0.1', '--straggler-floor', '1s', '--straggler-factor', '2'],
    agents: ['a1', 'a2'],
    agent: ['--slots', '1', '--kill-grace', '300ms'],
  });
});

/** Task 0 hangs on its first attempt, whatever node that is on; everything else is done at once. */
const script = (traces: string): string => `
  echo "$MESH_NODE $MESH_INDEX $MESH_ATTEMPT $MESH_GENERATION $$" >> ${traces}/began
  if test "$MESH_INDEX" = 0 && mkdir ${traces}/first 2>/dev/null; then exec sleep 600; fi
  echo "$MESH_NODE $MESH_INDEX $MESH_ATTEMPT" >> ${traces}/ended
`;

test('one node hangs on one task: its copy ends the job, the straggler is killed', async (t) => {
  const job = await mesh.submit('--array', '0-3', '--speculate', '--', 'sh', '-c', script(mesh.witness.folder));
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  const began = mesh.witness.lines('began').map((line) => line.split(' '));
  const ofStraggler = began.filter(([, index]) => index === '0');
  t.equal(began.length, 5, 'one task ran twice');
  t.equal(ofStraggler.length, 2);
  const [original, copy] = ofStraggler as [string[], string[]];
  t.not(original[0], copy[0], 'on two nodes');
  t.same(
    [original.slice(2, 4), copy.slice(2, 4)],
    [
      ['1', '1'],
      ['2', '2'],
    ],
    'attempt and generation are their own',
  );
  await eventually('the end of the straggler', () => !isAlive(Number(original[4])));
  t.equal(mesh.witness.lines('ended').length, 4, 'each task has one result');
  const tasks = await mesh.tasks(job.id);
  t.match(
    tasks.map(({ status }) => status),
    ['COMPLETED', 'COMPLETED', 'COMPLETED', 'COMPLETED'],
  );
  t.match(
    tasks.find(({ index }) => index === 0),
    { node: copy[0], failures: 0, losses: 0 },
  );
});

test('both options together are refused in one line', async (t) => {
  const refused = await mesh.cli('submit', '--speculate', '--on-disconnect', 'stop', '--', 'true');
  t.not(refused.code, 0);
  t.match(refused.stderr, /two attempts of one task would run at a time/);
});
