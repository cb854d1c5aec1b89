/**
 * A26: a task that wants more than its work. Everything is tried twice on the same agent: in the process tier, where much
 * of it succeeds (so these attacks are real ones), and in the bubblewrap tier, where nothing does. One agent is root and
 * runs tasks as another user; the other is an ordinary user, whose unsandboxed tasks are the agent's equals.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import t, { before, test } from 'tap';
import { eventually } from '../support/eventually.js';
import { type Agent, type Mesh, programPath, startMesh } from '../support/mesh.js';
import type { Spawner } from '../support/program.js';

/** Not the one that tasks of a root agent run as. */
const ORDINARY = 61_234;
/** More than the memory disks of the agents have. */
const FILL_MIB = 16;
const TIERS = ['process', 'bubblewrap'] as const;
type Tier = (typeof TIERS)[number];

/** Does the tier that is no sandbox stop it, for the tasks of a root agent and of an ordinary one? */
interface Attack {
  title: string;
  /** Shell; what it prints last decides. Everything of the surroundings is in variables. */
  script: string;
  stoppedBare: { root: boolean; user: boolean };
}

const NODE = '/usr/bin/env node -e';
const connect = (target: string): string =>
  `${NODE} 'require("node:net").connect(${target}, () => process.exit(0)).on("error", () => process.exit(1))'`;
const never = { root: false, user: false };
const rootOnly = { root: true, user: false };
const always = { root: true, user: true };

const ATTACKS: Record<string, Attack> = {
  key: { title: "reads the agent's key", script: 'cat "$DATA/agent.key"', stoppedBare: rootOnly },
  environment: {
    title: "reads the agent's environment",
    script: 'cat /proc/[0-9]*/environ 2>/dev/null | tr "\\0" "\\n" | grep -qx "E2E_RUN=$MARK"',
    stoppedBare: rootOnly,
  },
  procRoot: {
    title: "reads the agent's files through /proc",
    script: 'cat /proc/[0-9]*/root"$DATA/agent.crt"',
    stoppedBare: rootOnly,
  },
  signal: { title: 'signals the agent', script: 'kill -0 "$AGENT"', stoppedBare: rootOnly },
  memory: {
    title: "opens the agent's memory, as a debugger does",
    script: 'exec 9<"/proc/$AGENT/mem"',
    stoppedBare: rootOnly,
  },
  processes: { title: 'sees other processes', script: '[ -d "/proc/$AGENT" ]', stoppedBare: never },
  port: {
    title: "connects to the coordinator's port",
    script: connect('process.env.PORT, "127.0.0.1"'),
    stoppedBare: never,
  },
  abstract: {
    title: 'connects to an abstract socket',
    script: connect('"\\0" + process.env.ABSTRACT'),
    stoppedBare: never,
  },
  socket: {
    title: 'connects to a socket in the file system',
    script: connect('process.env.SOCKET'),
    stoppedBare: never,
  },
  write: { title: 'writes where everybody may', script: 'echo x > "$OPEN/written-$TIER"', stoppedBare: never },
  system: { title: 'writes to the system', script: 'echo x > /usr/bin/written', stoppedBare: always },
  remount: { title: 'makes the system writable', script: 'mount -o remount,rw,bind /usr', stoppedBare: always },
  namespaces: {
    title: 'makes namespaces of its own',
    script: 'unshare --user --map-root-user true',
    stoppedBare: never,
  },
  devices: { title: 'makes a device node', script: 'mknod node b 254 0', stoppedBare: always },
  terminal: { title: "opens the agent's terminal", script: 'exec 9<>/dev/tty', stoppedBare: always },
  fillTmp: {
    title: 'fills memory disks',
    script: `head -c ${FILL_MIB}M /dev/zero > "/dev/shm/$FILL" && rm "/dev/shm/$FILL" && head -c ${FILL_MIB}M /dev/zero > "/tmp/$FILL" && rm "/tmp/$FILL"`,
    stoppedBare: never,
  },
};

const skip =
  (process.getuid?.() !== 0 && 'needs root: it starts agents of two users') ||
  (!['/usr/bin/bwrap', '/bin/bwrap', '/usr/local/bin/bwrap'].some(existsSync) &&
    'needs bubblewrap: apt install bubblewrap');

let mesh: Mesh;
const agents = new Map<'root' | 'user', Agent>();
const outcomes = new Map<string, Map<string, boolean>>();
const canary = `canary-${randomBytes(8).toString('hex')}`;

/** Starts a program as an ordinary user. */
const asOrdinary: Spawner = (file, args, options) =>
  spawn('setpriv', [`--reuid=${ORDINARY}`, `--regid=${ORDINARY}`, '--clear-groups', '--', file, ...args], options);

before(async () => {
  if (skip) return;
  mesh = await startMesh(t);
  const listener = createServer().listen(`\0${canary}`);
  const socketPath = join(mesh.folder('open'), 'socket');
  const file = createServer().listen(socketPath);
  await Promise.all([once(listener, 'listening'), once(file, 'listening')]);
  for (const name of ['open', 'ready', 'tmp', 'home']) chmodSync(mesh.folder(name), 0o777);
  chmodSync(socketPath, 0o777);
  t.teardown(() => [listener, file].map((server) => server.close()));
  const args = ['--sandbox', 'auto', '--sandbox-tmp', '8MiB', '--kill-grace', '200ms'];
  agents.set('root', await mesh.startAgent('root', { mode: 0o700, args }));
  if (readableByOthers(programPath('agent'))) {
    chownSync(mesh.folder('agent-user'), ORDINARY, ORDINARY);
    agents.set('user', await mesh.startAgent('user', { mode: 0o700, args, spawner: asOrdinary }));
  }
  for (const who of agents.keys()) for (const tier of TIERS) outcomes.set(`${who} ${tier}`, await attackAs(who, tier));
});

function readableByOthers(path: string): boolean {
  for (let folder = dirname(path); folder !== '/'; folder = dirname(folder))
    if ((statSync(folder).mode & 0o001) === 0) return false;
  return true;
}

/** One task that tries everything, with how each attempt ended. */
async function attackAs(who: 'root' | 'user', tier: Tier): Promise<Map<string, boolean>> {
  const agent = agents.get(who) as Agent;
  const surroundings = {
    ...{ DATA: agent.dataDir, AGENT: String(agent.ready.pid), MARK: runMark(), TIER: `${who}-${tier}` },
    ...{ PORT: mesh.coordinator.ready.address.split(':').at(-1), ABSTRACT: canary, FILL: canary },
    ...{ OPEN: join(mesh.root, 'open'), SOCKET: join(mesh.root, 'open/socket') },
  };
  const variables = Object.entries(surroundings).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
  const script = Object.entries(ATTACKS)
    .map(([name, attack]) => `if ( ${attack.script} ) >/dev/null 2>&1; then echo ${name} yes; else echo ${name} no; fi`)
    .join('\n');
  const flags = ['--where', `name=${who}`, '--sandbox', tier, '--retries', '0', '--results', ...variables];
  const { stdout, stderr } = await mesh.cli('submit', ...flags, '--', 'sh', '-c', script);
  const lines = stdout.trim().split('\n');
  if (lines.length !== Object.keys(ATTACKS).length) throw new Error(`${stdout}\n${stderr}`);
  return new Map(lines.map((line) => [line.split(' ')[0] as string, line.endsWith('yes')]));
}

const runMark = (): string =>
  Object.entries(mesh.environment)
    .find(([name]) => name === 'E2E_RUN')
    ?.join('=') ?? '';

for (const [name, { title, stoppedBare }] of Object.entries(ATTACKS))
  test(`A26: a task ${title}`, { skip }, async (t) => {
    for (const who of agents.keys()) {
      t.equal(outcomes.get(`${who} process`)?.get(name), !stoppedBare[who], `${who} agent, process tier`);
      t.equal(outcomes.get(`${who} bubblewrap`)?.get(name), false, `${who} agent, bubblewrap tier`);
    }
    if (!agents.has('user')) t.comment('no ordinary user can reach this checkout: only the root agent was attacked');
  });

test('A26: nothing was left outside', { skip }, async (t) => {
  const left = readdirSync(join(mesh.root, 'open')).filter((name) => name.startsWith('written'));
  t.same(left.sort(), [...agents.keys()].map((who) => `written-${who}-process`).sort());
});

test('A26: variables of a job do not steer the sandbox itself', { skip }, async (t) => {
  for (const tier of TIERS) {
    const trace = join(mesh.root, 'open', `trace-${tier}`);
    mkdirSync(trace, { mode: 0o777 });
    chmodSync(trace, 0o777);
    // The dynamic linker of every program that is started with these writes a file.
    const variables = ['--env', 'LD_DEBUG=files', '--env', `LD_DEBUG_OUTPUT=${trace}/ld`];
    const job = await mesh.submit('--sandbox', tier, '--where', 'name=root', ...variables, '--wait', '--', 'true');
    t.equal(job.status, 'COMPLETED');
    t.equal(readdirSync(trace).length > 0, tier === 'process', `${tier} tier`);
  }
});

test('A26: the network is there when the job asked for it', { skip }, async (t) => {
  const script = `${connect(`${mesh?.coordinator.ready.address.split(':').at(-1)}, "127.0.0.1"`)} && ls / /etc`;
  const flags = ['--where', 'name=root', '--sandbox', 'bubblewrap', '--net', '--retries', '0', '--results'];
  const { stdout } = await mesh.cli('submit', ...flags, '--', 'sh', '-c', script);
  t.match(stdout, /resolv\.conf/);
  t.notMatch(stdout, /^(?:root|home|run|boot)$/m, 'and nothing else');
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

test('A26: a function is as confined as a command', { skip }, async (t) => {
  const module = join(mesh.root, 'nosy.mjs');
  writeFileSync(module, NOSY);
  for (const who of agents.keys())
    for (const tier of TIERS) {
      const agent = agents.get(who) as Agent;
      const given = { data: agent.dataDir, agent: agent.ready.pid, mark: runMark(), abstract: canary };
      const input = JSON.stringify({ ...given, port: Number(mesh.coordinator.ready.address.split(':').at(-1)) });
      const inputs = join(mesh.root, 'inputs.jsonl');
      writeFileSync(inputs, `${input}\n`);
      const flags = ['--where', `name=${who}`, '--sandbox', tier, '--retries', '0', '--results', '--json'];
      const { stdout, stderr } = await mesh.cli('submit', ...flags, '--each', inputs, '--fn', `${module}#nosy`);
      const bare = { key: who === 'user', environment: who === 'user', signal: who === 'user', process: true };
      const network = { port: true, abstract: true, outside: true };
      const nothing = { key: false, environment: false, signal: false, process: false };
      const expected =
        tier === 'process' ? { ...bare, ...network } : { ...nothing, port: false, abstract: false, outside: false };
      t.same((JSON.parse(stdout || '{}') as { result?: unknown }).result, expected, `${who}, ${tier} ${stderr}`);
    }
});

const NOSY = `
import { readFileSync, readdirSync, existsSync, writeFileSync, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
const works = (attack) => { try { return attack() !== false; } catch { return false; } };
const reaches = (...where) => new Promise((resolve) =>
  connect(...where, () => resolve(true)).on('error', () => resolve(false)));
export async function nosy({ data, agent, mark, abstract, port }) {
  const environments = () => readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name)).some((pid) => {
    try { return readFileSync('/proc/' + pid + '/environ', 'latin1').includes(mark); } catch { return false; }
  });
  const path = '/var/tmp/mesh-' + abstract;
  return {
    key: works(() => readFileSync(data + '/agent.key')),
    environment: works(environments),
    signal: works(() => process.kill(agent, 0)),
    process: works(() => existsSync('/proc/' + agent)),
    port: await reaches(port, '127.0.0.1'),
    abstract: await reaches('\\0' + abstract),
    outside: works(() => { writeFileSync(path, ''); unlinkSync(path); }),
  };
}
`;

test('A26: each node shows its tier and what is enforced there', { skip }, async (t) => {
  for (const who of agents.keys()) {
    const { capabilities } = await mesh.node(who);
    t.match(capabilities, { sandbox: 'bubblewrap', sandboxes: ['bubblewrap', 'process'] });
    t.ok(capabilities.limits.includes('network:namespace'));
  }
  t.match((await mesh.cli('nodes')).stdout, /SANDBOX[\s\S]*bubblewrap/);
  t.match((await mesh.cli('node', 'root')).stdout, /sandbox\s+bubblewrap; process for jobs that ask for it/);
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
