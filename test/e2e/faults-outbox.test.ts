/**
 * Results that nobody has acknowledged outlive the agent that made them: it is killed while the coordinator is away, and
 * what it had finished is delivered by its next life and not run again.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { globSync } from 'tinyglobby';
import { eventually } from '../support/eventually.js';
import { type Agent, type Mesh, startMesh } from '../support/mesh.js';

const shell = (script: string): string[] => ['--', 'sh', '-c', script];
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '300ms', '--node-lease', '30s'];
const AGENT = ['--slots', '3', '--kill-grace', '300ms', '--stop-grace', '100ms'];
let mesh: Mesh;
let agent: Agent;
let traces: string;

const startAgent = async (): Promise<void> => {
  agent = await mesh.startAgent('a1', { args: AGENT });
};

before(async () => {
  mesh = await startMesh(t, { coordinator: COORDINATOR });
  traces = mesh.witness.folder;
  await startAgent();
});

/** How often a text stands in what the agent keeps on disk. */
function kept(text: string): number {
  const files = globSync('**/results-*.log', { cwd: agent.dataDir }).map((name) => join(agent.dataDir, name));
  return files.reduce((sum, file) => sum + readFileSync(file, 'latin1').split(text).length - 1, 0);
}

/** Every line of a task: `INDEX start` and `INDEX end`. */
const script = (name: string, gate: string): string =>
  [
    `echo "$MESH_INDEX start" >> ${traces}/${name}`,
    `read x < ${gate}`,
    `echo "$MESH_INDEX end" >> ${traces}/${name}`,
    `echo "result of ${name}"`,
  ].join('; ');

for (const restarts of [1, 3])
  test(`the coordinator is away and the agent is killed ${restarts} times: what ended is not run again`, async (t) => {
    const name = `outbox-${restarts}`;
    const gate = mesh.witness.gate(`${name}-gate`);
    const job = await mesh.submit('--array', '0-2', ...shell(script(name, gate.path)));
    await mesh.witness.seen(name, 3);
    await mesh.coordinator.program.kill();
    // Two end; the third is cut off with its agent.
    gate.open(2);
    await eventually('two results to be kept', () => kept(`result of ${name}`) >= 2);
    const ended = mesh.witness.lines(name).filter((line) => line.endsWith('end'));
    t.equal(ended.length, 2);
    await agent.program.kill();
    for (let life = 1; life < restarts; life++) {
      const nobody = mesh.launch('agent', [
        ...AGENT,
        '--data',
        agent.dataDir,
        '--name',
        'a1',
        '--no-mdns',
        '--coordinator',
        mesh.coordinator.ready.address,
        '--ready-file',
        join(mesh.root, 'never'),
      ]);
      await nobody.logged('session.failed');
      await nobody.kill();
    }
    await mesh.startCoordinator({ args: COORDINATOR });
    await startAgent();
    gate.open();
    t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 3 } });
    for (const { index, attempts, losses, result } of await mesh.tasks(job.id)) {
      const before = ended.includes(`${index} end`);
      t.match(
        { attempts, losses, result },
        { attempts: before ? 1 : 2, losses: before ? 0 : 1, result: `result of ${name}\n` },
      );
      const starts = mesh.witness.lines(name).filter((line) => line === `${index} start`);
      t.equal(starts.length, before ? 1 : 2, `task ${index}`);
    }
  });
