/**
 * A mesh for end-to-end tests: the built programs as processes of their own, in one temporary folder. Everything they
 * log is kept and printed when a test fails; at the end all of it is stopped, in order, and whatever still runs then,
 * PostgreSQL and tasks included, is killed and fails the test.
 *
 *   let mesh: Mesh;
 *   before(async () => { mesh = await startMesh(t, { agents: ['a1', 'a2'] }); });
 *   test('…', async (t) => { t.equal((await mesh.cli('jobs')).code, 0); });
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { Test } from 'tap';
import { dataDirMarker } from '../../agent/executors/workroot.js';
import { packageRoot } from '../../common/package.js';
import type { JobShape, NodeShape, TaskShape } from '../../sdk/shapes.js';
import { type CommandOptions, type CommandResult, RunningCommand, runCommand } from './command.js';
import { findLeftovers, killAll, watchOver } from './leftovers.js';
import { describeExit, Program, type Spawner } from './program.js';
import { FolderSignal, until } from './until.js';
import { Witness } from './witness.js';

export interface CoordinatorReady {
  meshId: string;
  caFingerprint: string;
  address: string;
  adminProfile: string;
  pid: number;
}

export interface AgentReady {
  name: string;
  id: string;
  coordinator: string;
  pid: number;
}

export interface Coordinator {
  program: Program;
  ready: CoordinatorReady;
  dataDir: string;
}

export interface Agent {
  program: Program;
  ready: AgentReady;
  dataDir: string;
}

export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface StartOptions {
  /** More flags. */
  args?: readonly string[];
  /** Below the mesh's folder; one of its own when absent. */
  data?: string;
  /** Of an agent's data directory. */
  mode?: number;
  /** Where the process runs; on this host when absent. */
  spawner?: Spawner;
}

export interface MeshOptions {
  coordinator?: readonly string[];
  /** Agents to start, by name, each with one slot unless `agent` says otherwise. */
  agents?: readonly string[];
  agent?: readonly string[];
  /** Advertise and look on the network: off unless discovery is what is tested. */
  mdns?: boolean;
}

const PROGRAMS = {
  coordinator: 'dist/coordinator/main.js',
  agent: 'dist/agent/main.js',
  mesh: 'dist/cli/main.js',
  'mesh-ca': 'dist/ca/main.js',
} as const;

export function programPath(program: keyof typeof PROGRAMS): string {
  const path = join(packageRoot, PROGRAMS[program]);
  if (existsSync(path)) return path;
  throw new Error(`${PROGRAMS[program]} is missing: these tests run what is built; run "npm run build" first`);
}

export class Mesh {
  readonly root: string;
  readonly witness: Witness;
  /** The profile of the first operator. */
  profile = '';
  /** What commands are started with, such as `ip netns exec NAME`, where the coordinator is not on this host. */
  enter: readonly string[] = [];
  readonly #run = `E2E_RUN=${randomBytes(8).toString('hex')}`;
  readonly #programs: Program[] = [];
  readonly #readyFolder: string;
  readonly #ready: FolderSignal;
  readonly #mdns: boolean;
  readonly #dismiss: () => void;
  #coordinator: Coordinator | undefined;
  #numbers = 0;

  constructor(options: { mdns?: boolean } = {}) {
    this.root = mkdtempSync(join(tmpdir(), 'mesh-e2e-'));
    chmodSync(this.root, 0o711);
    this.#mdns = options.mdns === true;
    this.#readyFolder = this.folder('ready');
    this.#ready = new FolderSignal(this.#readyFolder);
    for (const name of ['home', 'tmp']) this.folder(name);
    this.witness = new Witness(join(this.root, 'witness'));
    this.#dismiss = watchOver(this.#run, this.root);
  }

  /** Makes a folder below the mesh's own and gives its path. */
  folder(name: string): string {
    const path = join(this.root, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** What programs and commands start with: nothing of the test's own environment. */
  get environment(): NodeJS.ProcessEnv {
    const [name, value] = this.#run.split('=') as [string, string];
    return {
      PATH: process.env.PATH,
      HOME: join(this.root, 'home'),
      TMPDIR: join(this.root, 'tmp'),
      LANG: 'C.UTF-8',
      NO_COLOR: '1',
      [name]: value,
      ...(this.profile === '' ? {} : { MESH_PROFILE: this.profile }),
    };
  }

  get coordinator(): Coordinator {
    if (!this.#coordinator) throw new Error('no coordinator was started');
    return this.#coordinator;
  }

  /** Starts one, again on the same data directory unless another is named, and waits until it is ready. */
  async startCoordinator(options: StartOptions = {}): Promise<Coordinator> {
    const dataDir = join(this.root, options.data ?? 'coordinator');
    const file = this.#readyFile('coordinator');
    const port = this.#coordinator?.dataDir === dataDir ? this.#coordinator.ready.address.split(':').at(-1) : '0';
    const flags = ['--data', dataDir, '--port', port ?? '0', '--ready-file', file, ...this.#discovery()];
    const program = this.launch('coordinator', [...flags, ...(options.args ?? [])], options.spawner);
    const ready = await this.#whenReady<CoordinatorReady>(program, file);
    this.#coordinator = { program, ready, dataDir };
    this.profile = ready.adminProfile;
    return this.#coordinator;
  }

  /** Starts one and waits until it is registered; with a fresh token, unless it has joined before. */
  async startAgent(name: string, options: StartOptions = {}): Promise<Agent> {
    const dataDir = this.folder(options.data ?? `agent-${name}`);
    // Others may pass through, so tasks run inside the mesh's own folder, where what is left of them is found.
    chmodSync(dataDir, options.mode ?? 0o711);
    const file = this.#readyFile(name);
    const flags = ['--data', dataDir, '--name', name, '--ready-file', file, ...this.#discovery()];
    // Tasks of most tests leave traces on this machine, which a sandbox is there to prevent.
    if (!options.args?.includes('--sandbox')) flags.push('--sandbox', 'process');
    if (!this.#mdns) flags.push('--coordinator', this.coordinator.ready.address);
    if (!existsSync(join(dataDir, 'agent.crt'))) flags.push('--join', await this.token());
    const program = this.launch('agent', [...flags, ...(options.args ?? ['--slots', '1'])], options.spawner);
    return { program, ready: await this.#whenReady<AgentReady>(program, file), dataDir };
  }

  /** Starts a program and waits for nothing. */
  launch(program: 'coordinator' | 'agent', args: readonly string[], spawner?: Spawner): Program {
    const title = `${program} ${basename(args[args.indexOf('--ready-file') + 1] ?? '')}`;
    const options = { env: this.environment, cwd: this.root, spawner };
    const started = new Program(title, [programPath(program), ...args], options);
    this.#programs.push(started);
    return started;
  }

  async token(...args: string[]): Promise<string> {
    const made = await this.cli('token', 'create', '--json', ...args);
    if (made.code !== 0) throw new Error(`no token: ${made.stderr}`);
    return made.json<{ token: string }>().token;
  }

  /** `mesh …` as the first operator. */
  cli(...args: string[]): Promise<CommandResult> {
    return this.cliWith({}, ...args);
  }

  cliWith(options: CommandOptions, ...args: string[]): Promise<CommandResult> {
    return this.run('mesh', args, options);
  }

  ca(...args: string[]): Promise<CommandResult> {
    return this.run('mesh-ca', args);
  }

  /** Any program, to its end. */
  run(program: keyof typeof PROGRAMS, args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    const [file, ...words] = [...this.enter, process.execPath, programPath(program), ...args] as [string, ...string[]];
    return runCommand(file, words, this.#around(options));
  }

  /** `mesh …` that goes on, to look at what it prints meanwhile. */
  watch(...args: string[]): RunningCommand {
    const around = { ...this.#around({}), input: '' };
    const [file, ...words] = [...this.enter, process.execPath, programPath('mesh'), ...args] as [string, ...string[]];
    return new RunningCommand(`mesh ${args.join(' ')}`, file, words, around);
  }

  /** `mesh submit --json …`, which must be accepted. With `--wait` in it the ended job, however it ended. */
  async submit(...args: string[]): Promise<JobShape> {
    const result = await this.cli('submit', '--json', ...args);
    if (result.stdout === '') throw new Error(`the job was not accepted: ${result.stderr}`);
    return result.json<JobShape>();
  }

  /** Waits for the job's end and gives it, however it ended. */
  async wait(id: string): Promise<JobShape> {
    return (await this.cli('wait', '--json', id)).json<JobShape>();
  }

  async job(id: string): Promise<JobShape> {
    return (await this.cli('job', '--json', id)).json<JobShape>();
  }

  async tasks(id: string): Promise<TaskShape[]> {
    return (await this.cli('tasks', '--json', id)).json<Page<TaskShape>>().items;
  }

  async nodes(): Promise<NodeShape[]> {
    return (await this.cli('nodes', '--json')).json<Page<NodeShape>>().items;
  }

  async node(name: string): Promise<NodeShape> {
    return (await this.cli('node', '--json', name)).json<NodeShape>();
  }

  /** Stops everything that runs, agents first. @returns what went wrong, one line each */
  async close(): Promise<string[]> {
    const problems: string[] = [];
    const stop = async (program: Program): Promise<void> => {
      if (!program.running) return;
      program.signal('SIGCONT');
      try {
        const exit = await program.stop();
        if (exit.code !== 0) problems.push(`${program.title} ended ${describeExit(exit)} after SIGTERM`);
      } catch (error) {
        problems.push((error as Error).message);
        await program.kill();
      }
    };
    await Promise.all(this.#programs.filter((program) => program.title.startsWith('agent')).map(stop));
    await Promise.all(this.#programs.map(stop));
    const leftovers = this.#leftovers();
    killAll(leftovers);
    problems.push(...leftovers.map(({ pid, command }) => `process ${pid} was left running: ${command}`));
    const forgotten = existsSync(this.root) ? readdirSync(join(this.root, 'tmp')) : [];
    problems.push(...forgotten.map((name) => `${name} was left in the temporary folder`));
    this.witness.close();
    this.#ready.close();
    rmSync(this.root, { recursive: true, force: true });
    this.#dismiss();
    return problems;
  }

  /** The end of what each program wrote. */
  logs(lines = 40): string {
    return this.#programs
      .map(({ title, tail }) => `--- ${title}\n${tail.split('\n').slice(-lines).join('\n')}`)
      .join('\n');
  }

  #leftovers() {
    const dataDirs = readdirSync(this.root).map((name) => join(this.root, name));
    const folders = [this.root, ...dataDirs.map((path) => `/var/tmp/planetary-mesh-${dataDirMarker(path)}`)];
    return findLeftovers({ variable: this.#run, folders });
  }

  #around(options: CommandOptions): { cwd: string; env: NodeJS.ProcessEnv; input?: string | undefined } {
    const env = { ...this.environment, ...options.env };
    return { cwd: options.cwd ?? this.root, env, input: options.input };
  }

  #discovery(): string[] {
    return this.#mdns ? [] : ['--no-mdns'];
  }

  #readyFile(name: string): string {
    return join(this.#readyFolder, `${name}-${++this.#numbers}`);
  }

  /** The content of a ready file once it is there. Fails when the program ends before. */
  async #whenReady<T>(program: Program, file: string): Promise<T> {
    const text = await until(
      `${program.title} to be ready`,
      () => {
        if (existsSync(file)) return readFileSync(file, 'utf8');
        if (program.exit) throw new Error(`${program.title} ended ${describeExit(program.exit)}: ${program.stderr}`);
        return undefined;
      },
      this.#ready,
      program,
    );
    return JSON.parse(text) as T;
  }
}

/** An empty one, taken down after the test, with its logs printed if something failed. */
export function makeMesh(t: Test, options: { mdns?: boolean } = {}): Mesh {
  const mesh = new Mesh(options);
  t.teardown(async () => {
    const problems = await mesh.close();
    if (problems.length > 0 || !t.passing())
      process.stderr.write(`\n${mesh.logs()}\n${problems.map((line) => `PROBLEM ${line}\n`).join('')}`);
    if (problems.length > 0) throw new Error(problems.join('\n'));
  });
  return mesh;
}

/** A coordinator with agents, taken down after the test. */
export async function startMesh(t: Test, options: MeshOptions = {}): Promise<Mesh> {
  const mesh = makeMesh(t, { mdns: options.mdns === true });
  const args = [...(options.mdns ? [] : ['--listen', '127.0.0.1']), ...(options.coordinator ?? [])];
  await mesh.startCoordinator({ args });
  const flags = ['--slots', '1', '--stop-grace', '100ms', '--kill-grace', '300ms', ...(options.agent ?? [])];
  await Promise.all((options.agents ?? []).map((name) => mesh.startAgent(name, { args: flags })));
  return mesh;
}
