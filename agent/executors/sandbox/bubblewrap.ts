/**
 * The strongest tier: bubblewrap makes namespaces for users, processes, files, IPC, host name, control groups and, unless
 * the job asked for it, the network. What the task sees is a read-only system, a short list of /etc, small memory disks
 * for /tmp and /dev/shm, and its own directory, which alone it may write to.
 *
 * Three processes: the *monitor* that we start, already as the task's user (never as root with a mapped root), which
 * the kernel kills with the agent (PR_SET_PDEATHSIG); below it the first process of the namespace, whose death takes
 * everything in it along; below that the command. The monitor arms itself before it tells us of the namespace and only
 * then lets it go on: if the agent died in between, that write fails, and no command ever runs.
 *
 * bubblewrap itself runs outside, so nothing of the job may steer it: it starts with an environment of its own, and the
 * job's variables (LD_PRELOAD and its like among them) reach it as data over a pipe, on no command line.
 */
import { existsSync, lstatSync, readlinkSync, realpathSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../../../common/clock.js';
import { MeshError } from '../../../common/errors.js';
import { NodeFault } from '../../core/types.js';
import type { Child, Starter } from '../child.js';
import { COOKIE_VARIABLE, TASK_PATH } from '../environment.js';
import { readProcess, sendSignal } from '../process-table.js';
import { UNBOUNDED } from './bounds.js';
import { Complaint, launch, makeToken } from './launcher.js';
import type { TaskEtc } from './etc.js';
import type { Command, Contained, Exit, Tier } from './tier.js';
import { signalOfCode } from './signals.js';

export interface BubblewrapOptions {
  /** Absolute path of the program. */
  program: string;
  /** Whether user namespaces inside are forbidden; needs bubblewrap 0.8. */
  forbidsNesting: boolean;
  /** What is shown as /etc. */
  etc: TaskEtc;
  /** What an operator wants tasks to see beside the system. */
  readable: readonly string[];
  hostname: () => string;
  /** Of /tmp and of /dev/shm, each. */
  memoryDiskBytes: number;
  clock: Clock;
}

/** Every namespace there is. Named one by one, because `--unshare-all` only tries for users. */
const NAMESPACES = ['user', 'pid', 'ipc', 'uts', 'cgroup-try'].map((name) => `--unshare-${name}`);
/** Links into /usr on a merged system, folders on others. */
const SYSTEM_FOLDERS = ['/bin', '/sbin', '/lib', '/lib32', '/lib64', '/libx32'];
/** Shown as the machine has them where the job asked for the network. */
const NET_ETC = ['/etc/hosts', '/etc/resolv.conf'];
const GPU_DEVICES = ['nvidiactl', 'nvidia-uvm', 'nvidia-uvm-tools', 'nvidia-modeset', 'nvidia-caps'];
/** How programs learn of processors and memory nodes. */
const HARDWARE = ['/sys/devices/system/cpu', '/sys/devices/system/node'];
/** bubblewrap's own bound is 9000, for what it is told in any way; the rest is ours. */
const WORDS_MAX = 8500;
/**
 * On a quiet machine it is gone within a few turns. Taking down a network namespace takes longer on a busy one, and what
 * hangs in a file system longer still: to look again in every turn would only keep the machine busier.
 */
const TURNS = 4;
const CONFIRM_EVERY_MS = 1;

export class BubblewrapTier implements Tier {
  readonly name = 'bubblewrap';
  readonly #options: BubblewrapOptions;

  constructor(options: BubblewrapOptions) {
    this.#options = options;
  }

  start<C extends Child>(command: Command, starter: Starter<C>): Contained<C> {
    const { argv, environment } = command;
    const words = argv.length + 3 * Object.keys(environment).length;
    if (words > WORDS_MAX)
      throw new MeshError('BAD_SPEC', `${argv.length} arguments and their variables are more than bubblewrap takes`, {
        hint: 'pass them in a file, or use --sandbox process',
      });
    return new Namespace(this.#options, command, starter);
  }
}

/** Everything but the job's variables: those are no one's business who lists processes. */
export function bubblewrapArguments(options: BubblewrapOptions, command: Command, descriptors: Descriptors): string[] {
  const { directory, startsIn = directory, gpus, net, readable = [] } = command;
  const size = String(options.memoryDiskBytes);
  return [
    ...NAMESPACES,
    ...(net ? [] : ['--unshare-net']),
    ...(options.forbidsNesting ? ['--disable-userns'] : []),
    ...['--die-with-parent', '--new-session', '--cap-drop', 'ALL', '--clearenv', '--hostname', options.hostname()],
    ...readOnly('/usr'),
    ...SYSTEM_FOLDERS.flatMap(systemFolder),
    ...['--ro-bind', options.etc.directory, '/etc'],
    ...[...options.etc.folders()].flatMap((name) => readOnlyTry(`/etc/${name}`)),
    ...(net ? NET_ETC.flatMap(readOnlyResolved) : []),
    ...['--proc', '/proc', '--dev', '/dev'],
    ...gpuDevices(gpus).flatMap((path) => ['--dev-bind-try', path, path]),
    ...['--size', size, '--tmpfs', '/dev/shm', '--remount-ro', '/dev', '--size', size, '--tmpfs', '/tmp'],
    ...HARDWARE.flatMap(readOnlyTry),
    ...options.readable.flatMap(readOnlyTry),
    ...readable.flatMap(readOnly),
    ...['--bind', directory, directory, '--chdir', startsIn, '--remount-ro', '/'],
    ...['--json-status-fd', String(descriptors.status), '--args', String(descriptors.variables)],
  ];
}

interface Descriptors {
  status: number;
  variables: number;
}

const readOnly = (path: string): string[] => ['--ro-bind', path, path];
const readOnlyTry = (path: string): string[] => ['--ro-bind-try', path, path];

function systemFolder(path: string): string[] {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (!status) return [];
  return status.isSymbolicLink() ? ['--symlink', readlinkSync(path), path] : readOnly(path);
}

/** The file behind a link, in the link's place: what it points to lies in folders that stay hidden. */
function readOnlyResolved(path: string): string[] {
  return existsSync(path) ? ['--ro-bind', realpathSync(path), path] : [];
}

const gpuDevices = (gpus: readonly number[]): string[] =>
  gpus.length === 0 ? [] : [...gpus.map((index) => `nvidia${index}`), ...GPU_DEVICES].map((name) => `/dev/${name}`);

class Namespace<C extends Child> implements Contained<C> {
  readonly child: C;
  readonly complaint: Complaint;
  readonly keepers = new Set<number>();
  /** The first process of the namespace; undefined until the monitor has told us of it. */
  #first: { pid: number; startTicks: number } | undefined;
  #status = '';
  #ended = false;
  readonly #clock: Clock;

  constructor(options: BubblewrapOptions, command: Command, starter: Starter<C>) {
    this.#clock = options.clock;
    const { user, cookie, linked, directoryCare } = command;
    const status = linked === true ? 4 : 3;
    const token = makeToken();
    this.complaint = new Complaint([token, 'bwrap: ']);
    const descriptors = { status, variables: status + 1 };
    const args = bubblewrapArguments(options, command, descriptors);
    const closing = Object.values(descriptors);
    const { argv, environment } = launch(command, token, { inNamespace: true, closing });
    this.child = starter({
      argv: [options.program, ...args, '--', ...argv],
      environment: { PATH: TASK_PATH, [COOKIE_VARIABLE]: cookie },
      directory: directoryCare ? command.directory : '/',
      words: setVariables({ ...environment, [COOKIE_VARIABLE]: cookie }),
      bounds: UNBOUNDED,
      ...{ user, linked: linked === true, directoryCare },
    });
    this.child.whenKnown((pid) => this.keepers.add(pid));
    this.child.onReport((text) => this.#read(text));
    const ended = () => void (this.#ended = true);
    this.child.exited.then(ended, ended);
  }

  #read(text: string): void {
    this.#status += text;
    const pid = Number(/"child-pid": (\d+)/.exec(this.#status)?.[1]);
    if (this.#first || !(pid > 0)) return;
    const startTicks = readProcess(pid)?.startTicks;
    if (startTicks === undefined) return;
    this.#first = { pid, startTicks };
    this.keepers.add(pid);
  }

  /** The first process, if it is still the one we know. */
  get #living(): number | undefined {
    if (!this.#first) return undefined;
    const entry = readProcess(this.#first.pid);
    return entry?.startTicks === this.#first.startTicks && !entry.zombie ? entry.pid : undefined;
  }

  kill(): void {
    const first = this.#living;
    if (first !== undefined) sendSignal(first, 'SIGKILL');
    else if (!this.#ended) this.child.signalGroup('SIGKILL');
  }

  /** The kernel lets the first process of a namespace end only after all others in it. */
  async verdict({ exitCode, signal }: Exit): Promise<Exit> {
    for (let turn = 0; this.#living !== undefined; turn++) {
      this.kill();
      if (turn < TURNS) await nextTurn();
      else await new Promise<void>((resolve) => this.#clock.after(CONFIRM_EVERY_MS, resolve));
    }
    if (signal !== undefined || exitCode === undefined) return { exitCode, signal };
    const failure = this.complaint.executionFailure(exitCode);
    if (failure) throw failure;
    // Said only of a command that was executed.
    if (!this.#status.includes('"exit-code"') && exitCode === 1)
      throw new NodeFault(`the sandbox could not be set up: ${this.complaint.line || 'bubblewrap gave no reason'}`);
    const killedBy = signalOfCode(exitCode);
    return killedBy ? { exitCode: undefined, signal: killedBy } : { exitCode, signal };
  }
}

/** As bubblewrap reads them from `--args`: words that end with a NUL. */
const setVariables = (environment: Readonly<Record<string, string>>): string =>
  Object.entries(environment)
    .map(([name, value]) => `--setenv\0${name}\0${value}\0`)
    .join('');
