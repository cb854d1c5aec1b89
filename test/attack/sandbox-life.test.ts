/**
 * A26 and B1: a task that wants to live longer, or to be more, than it may. In the process tier it is bounded or cleaned
 * up later; in the bubblewrap tier it ends with its attempt, its agent's `kill -9` included.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { eventually } from '../support/eventually.js';
import type { Agent, Mesh } from '../support/mesh.js';
import type { Spawner } from '../support/program.js';
import { skipReason as skip, startSandboxed, TIERS, type Who } from '../support/sandboxed-mesh.js';

let mesh: Mesh;
let agents: ReadonlyMap<Who, Agent> = new Map();

before(async () => {
  if (!skip) ({ mesh, agents } = await startSandboxed(t));
});

test('A26: a fork bomb goes off within its bounds, and its task says so', { skip }, async (t) => {
  const bomb = 'i=0; while [ $i -lt 400 ]; do sleep 1000 & i=$((i+1)); done; wait';
  for (const who of agents.keys())
    for (const tier of TIERS) {
      const flags = ['--where', `name=${who}`, '--sandbox', tier, '--max-processes', '60', '--retries', '0'];
      const job = await mesh.submit(...flags, '--wait', '--', 'sh', '-c', bomb);
      t.equal(job.status, 'FAILED');
      const [task] = await mesh.tasks(job.id);
      t.match(
        task?.lastError,
        tier === 'process' ? /killed: it had \d+ processes.*the 60 allowed/ : /code|of the 60/,
        `${who}, ${tier}`,
      );
    }
});

/** A process that left its group, its parents and its environment, and holds nothing open. */
const escapee = (mark: string): string =>
  `setsid env -i sh -c 'setsid sleep ${mark} & exit' >/dev/null 2>&1 </dev/null; sleep 0.1; echo escaped`;

const livingWith = (mark: string): number[] =>
  readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      try {
        return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').includes(mark);
      } catch {
        return false;
      }
    });

let marks = 0;
/** A number of seconds that nobody else waits for. */
const makeMark = (): string => `${100_000 + (process.pid % 10_000)}.${++marks}`;

test('A26: a task outlives its attempt', { skip }, async (t) => {
  for (const tier of TIERS) {
    const mark = makeMark();
    const flags = ['--where', 'name=root', '--sandbox', tier, '--retries', '0', '--results'];
    t.match((await mesh.cli('submit', ...flags, '--', 'sh', '-c', escapee(mark))).stdout, 'escaped');
    const left = livingWith(mark);
    for (const pid of left) process.kill(pid, 'SIGKILL');
    t.equal(left.length, tier === 'process' ? 1 : 0, `${tier} tier`);
  }
});

test('A26: an agent that is to isolate runs nothing without, and says why when it cannot', { skip }, async (t) => {
  const strict = await mesh.startAgent('strict', { args: ['--sandbox', 'bubblewrap'] });
  const job = await mesh.submit('--where', 'name=strict', '--sandbox', 'process', '--', 'true');
  await eventually('the planner to say why', async () =>
    /nothing without a sandbox/.test((await mesh.cli('why', job.id)).stdout),
  );
  await mesh.cli('cancel', job.id);
  await strict.program.stop();
  const path = mesh.folder('no-programs');
  const bare: Spawner = (_file, args, options) =>
    spawn('env', ['-i', `PATH=${path}`, ...args.filter((word) => !/^-i$|^[A-Z0-9_]+=/.test(word))], options);
  const flags = ['--data', strict.dataDir, '--sandbox', 'bubblewrap', '--ready-file', join(mesh.root, 'ready/never')];
  const refused = mesh.launch('agent', [...flags, '--coordinator', mesh.coordinator.ready.address], bare);
  t.equal((await refused.ended).code, 1);
  t.match(refused.stderr, /bubblewrap is not installed; install it: apt install bubblewrap/);
});

test('B1: kill -9 of an agent leaves no process of a sandboxed task', { skip }, async (t) => {
  for (const tier of TIERS) {
    const mark = makeMark();
    const agent = await mesh.startAgent(`doomed-${tier}`, { args: ['--sandbox', tier] });
    const script = `setsid sleep ${mark} & sleep ${mark} & (setsid env -i sleep ${mark} &) ; wait`;
    await mesh.submit(
      '--where',
      `name=doomed-${tier}`,
      '--on-disconnect',
      'stop',
      '--retries',
      '0',
      '--',
      'sh',
      '-c',
      script,
    );
    await eventually('its processes', () => livingWith(mark).length === 3);
    await agent.program.kill();
    if (tier === 'process') t.equal(livingWith(mark).length, 3, 'without a sandbox they go on');
    else await eventually('all of them to be gone', () => livingWith(mark).length === 0);
    for (const pid of livingWith(mark)) process.kill(pid, 'SIGKILL');
  }
});
