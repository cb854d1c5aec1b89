/**
 * A26: a task that wants more than its work. Everything is tried twice on the same agent: in the process tier, where much
 * of it succeeds (so these attacks are real ones), and in the bubblewrap tier, where nothing does. One agent is root and
 * runs tasks as another user; the other is an ordinary user, whose unsandboxed tasks are the agent's equals.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import type { Agent, Mesh } from '../support/mesh.js';
import { skipReason as skip, startSandboxed, type Tier, TIERS, type Who } from '../support/sandboxed-mesh.js';

/** More than the memory disks of the agents have. */
const FILL_MIB = 16;

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

let mesh: Mesh;
let agents: ReadonlyMap<Who, Agent> = new Map();
const outcomes = new Map<string, Map<string, boolean>>();
const canary = `canary-${randomBytes(8).toString('hex')}`;

before(async () => {
  if (skip) return;
  ({ mesh, agents } = await startSandboxed(t));
  const socket = join(mesh.root, 'open/socket');
  const servers = [`\0${canary}`, socket].map((path) => createServer().listen(path));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  chmodSync(socket, 0o777);
  t.teardown(() => {
    for (const server of servers) server.close();
  });
  for (const who of agents.keys()) for (const tier of TIERS) outcomes.set(`${who} ${tier}`, await attackAs(who, tier));
});

/** One task that tries everything, with how each attempt ended. */
async function attackAs(who: Who, tier: Tier): Promise<Map<string, boolean>> {
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

/** In the environment of every program of this mesh. */
const runMark = (): string => mesh.environment.E2E_RUN ?? '';

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
  const script = `${connect(`${mesh?.coordinator.ready.address.split(':').at(-1)}, "127.0.0.1"`)} && cat /etc/hosts && ls /`;
  const flags = ['--where', 'name=root', '--sandbox', 'bubblewrap', '--net', '--retries', '0', '--results'];
  const { stdout } = await mesh.cli('submit', ...flags, '--', 'sh', '-c', script);
  t.ok(stdout.includes(readFileSync('/etc/hosts', 'utf8').trim()), 'with the names that this machine knows');
  t.notMatch(stdout, /^(?:root|home|run|boot)$/m, 'and nothing else');
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
