/**
 * Runs a command: an argument vector, never a shell, in a private directory, with a clean environment, empty input and
 * a process group of its own.
 *
 * Its end: the main process ends by itself, at its timeout or because somebody asked. Then whatever is left of its tree
 * is killed: the group always and at once; those who left the group by parent, by what was seen of the tree earlier and
 * by cookie, when it is stopped, or when somebody still holds its output open, and otherwise by the next sweep (StrayWatch).
 * A stop is SIGTERM to the tree, then SIGKILL when the main process ends or after the grace, whichever is first. One that
 * is fenced gets no grace: what runs here must be gone before it may run elsewhere.
 */
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { Clock, Timer } from '../../common/clock.js';
import { MeshError, systemCode } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import type {
  AttemptEnd,
  AttemptSpec,
  Executor,
  LaunchObserver,
  LaunchSpec,
  OutputSink,
  RunningLaunch,
  StopReason,
} from '../core/types.js';
import { NodeFault } from '../core/types.js';
import { type FileSource, placeFiles } from '../staging/place.js';
import { fillArguments, taskEnvironment } from './environment.js';
import type { Janitor } from './janitor.js';
import { sendSignal } from './process-table.js';
import { Sampler } from './sampler.js';
import {
  describeDuration,
  excessProblem,
  exitProblem,
  outOfMemoryProblem,
  spawnProblem,
  stopProblem,
} from './problems.js';
import { type Bounds, boundsOf, UNBOUNDED } from './sandbox/bounds.js';
import type { Complaint } from './sandbox/launcher.js';
import type { Cgroup } from './sandbox/cgroups.js';
import type { Contained, Exit } from './sandbox/tier.js';
import type { Tiers } from './sandbox/tiers.js';
import { type PlacedSecrets, placeSecrets, type SecretFiles } from './secret-files.js';
import { findTree, killTree, type StrayWatch, type Tracked } from './strays.js';
import type { WorkRoot } from './workroot.js';

/** How long the output may stay open after the main process has ended before the holders are looked for. */
const DRAIN_MS = 200;

export interface ProcessExecutorOptions {
  workRoot: WorkRoot;
  files: FileSource;
  strays: StrayWatch;
  janitor: Janitor;
  tiers: Tiers;
  /** Undefined where secrets cannot be kept in memory as files. */
  secretFiles?: SecretFiles | undefined;
  clock: Clock;
  log: Logger;
  /** MESH_NODE. */
  nodeName: () => string;
  /** Between SIGTERM and SIGKILL. Default 2 s. */
  graceMs?: number;
}

export class ProcessExecutor implements Executor {
  readonly name = 'process';
  readonly #options: ProcessExecutorOptions;
  readonly #sampler: Sampler;

  constructor(options: ProcessExecutorOptions) {
    this.#options = options;
    this.#sampler = new Sampler(options.clock);
  }

  launchMax(): number {
    return 1;
  }

  start(launch: LaunchSpec, observer: LaunchObserver): RunningLaunch {
    const attempt = launch.attempts[0];
    if (!attempt || launch.attempts.length > 1) throw new Error('a command runs alone in its launch');
    const running = new RunningProcess(this.#options, this.#sampler, attempt, launch, observer);
    return { stop: (_, reason) => running.stop(reason), done: running.run() };
  }
}

type Ending = StopReason | 'timed-out' | 'exceeded';

class RunningProcess {
  /** Zero until it is started. */
  pid = 0;
  readonly tracked: Tracked = new Map();
  peakMemoryBytes: number | undefined;
  bounds: Bounds = UNBOUNDED;
  peakProcesses = 0;
  readonly #options: ProcessExecutorOptions;
  readonly #sampler: Sampler;
  readonly #attempt: AttemptSpec;
  readonly #launch: LaunchSpec;
  readonly #observer: LaunchObserver;
  readonly #directory: string;
  readonly #cookie: string;
  #placed: PlacedSecrets | undefined;
  #contained: Contained | undefined;
  #cgroup: Cgroup | undefined;
  /** Why we end it; undefined while it may run. */
  #ending: Ending | undefined;
  /** Which bound it went beyond, for a person. */
  #excess = '';
  #exited = false;
  #timers: Timer[] = [];
  #startedMs: number;
  #runMs = 0;

  constructor(
    options: ProcessExecutorOptions,
    sampler: Sampler,
    attempt: AttemptSpec,
    launch: LaunchSpec,
    observer: LaunchObserver,
  ) {
    this.#options = options;
    this.#sampler = sampler;
    this.#attempt = attempt;
    this.#launch = launch;
    this.#observer = observer;
    this.#startedMs = options.clock.monotonicMs();
    const name = `${attempt.job}.${attempt.index}.${attempt.generation}`;
    this.#directory = join(options.workRoot.path, `${name}-${randomBytes(3).toString('hex')}`);
    this.#cookie = options.strays.issue(name);
  }

  async run(): Promise<void> {
    let end: AttemptEnd;
    try {
      await this.#prepare();
      end = this.#ending ? this.#end({}) : await this.#execute();
    } catch (error) {
      end = this.#failure(error);
    }
    for (const timer of this.#timers) timer.cancel();
    this.#sampler.remove(this);
    this.#cgroup?.remove();
    this.#options.strays.retire(this.#cookie);
    this.#options.janitor.remove(this.#directory);
    this.#placed?.remove();
    this.#observer.ended(0, end);
  }

  stop(reason: StopReason): void {
    this.#stop(reason);
  }

  get keepers(): ReadonlySet<number> {
    return this.#contained?.keepers ?? NO_KEEPERS;
  }

  /** It uses more than it may: there is no grace, because by the end of one the machine would have paid for it. */
  exceeded(problem: string): void {
    if (this.#exited || this.#ending) return;
    this.#excess = problem;
    this.#ending = 'exceeded';
    this.#kill();
  }

  async #prepare(): Promise<void> {
    const { workRoot, files, secretFiles } = this.#options;
    try {
      mkdirSync(this.#directory, { mode: 0o700 });
      if (this.#attempt.input?.files.length)
        await placeFiles(this.#attempt.input.files, this.#directory, files, workRoot.user);
      if (workRoot.user) chownSync(this.#directory, workRoot.user.uid, workRoot.user.gid);
      this.#placed = placeSecrets(secretFiles, this.#launch.secrets);
    } catch (error) {
      if (error instanceof NodeFault || error instanceof MeshError) throw error;
      throw new NodeFault(`no working directory could be made: ${systemCode(error) ?? String(error)}`, error);
    }
  }

  /** Resolves when the main process has ended and its output is closed. Rejects when it could not be started. */
  async #execute(): Promise<AttemptEnd> {
    const { clock } = this.#options;
    const contained = this.#spawn();
    const { child, complaint } = contained;
    this.#contained = contained;
    this.#startedMs = clock.monotonicMs();
    if (child.pid === undefined) throw await new Promise<Error>((resolve) => child.once('error', resolve));
    this.pid = child.pid;
    child.on('error', (err) =>
      this.#options.log.warn({ event: 'task.process-error', err }, 'a process reported an error'),
    );
    this.#sampler.add(this);
    this.#observer.started(0, 0);
    const sink = this.#observer.output(0);
    forward(child.stdout as Readable, Stream.STDOUT, sink);
    forward(child.stderr as Readable, Stream.STDERR, sink, complaint);
    const { timeoutMs } = this.#attempt.body;
    if (timeoutMs > 0) this.#timers.push(clock.after(timeoutMs, () => this.#stop('timed-out')));
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    const [exitCode, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
      child.once('exit', (...how) => resolve(this.#onExit(how))),
    );
    if (this.#ending) await killTree(this.pid, this.#cookie, this.tracked);
    await this.#drain(child, closed);
    const how = await contained.verdict({ exitCode: exitCode ?? undefined, signal: signal ?? undefined });
    if (complaint) sink.write(Stream.STDERR, complaint.release());
    return this.#end(how);
  }

  #onExit<T>(how: T): T {
    this.#exited = true;
    this.#runMs = this.#options.clock.monotonicMs() - this.#startedMs;
    this.#contained?.kill();
    return how;
  }

  #spawn(): Contained {
    const { workRoot, tiers } = this.#options;
    const { body } = this.#attempt;
    const { gpus, secrets } = this.#launch;
    const { work } = body;
    const secretDirectory = this.#placed?.directory;
    if (work?.$case !== 'process') throw new MeshError('BAD_SPEC', 'the job has no command');
    const argv = fillArguments(work.value.argv, this.#attempt);
    if (!argv[0]) throw new MeshError('BAD_SPEC', 'the command is empty');
    this.bounds = boundsOf(body.resources, body.limits, tiers.bounds);
    const command = {
      argv,
      environment: taskEnvironment(
        this.#attempt,
        { ...work.value.environment, ...secrets?.variables(secretDirectory) },
        {
          node: this.#options.nodeName(),
          directory: this.#directory,
          gpus,
          cookie: this.#cookie,
        },
      ),
      ...{ directory: this.#directory, cookie: this.#cookie, user: workRoot.user },
      ...{ gpus, net: body.net, bounds: this.bounds },
      ...(secretDirectory === undefined ? {} : { readable: [secretDirectory] }),
    };
    const tier = tiers.choose(body);
    this.#cgroup = tiers.cgroupFor(this.bounds);
    return this.#cgroup ? this.#cgroup.around(() => tier.start(command)) : tier.start(command);
  }

  /** Whoever still holds the output open left the group: find and kill them, then wait no longer. */
  async #drain(child: ChildProcess, closed: Promise<void>): Promise<void> {
    let late = this.#lateness(DRAIN_MS);
    if (await Promise.race([closed.then(() => false), late])) {
      // A paused stream is not held open by anybody: the spool is behind, and catches up.
      await killTree(this.pid, this.#cookie, this.tracked);
      late = this.#lateness(DRAIN_MS);
      while ((await Promise.race([closed.then(() => false), late])) && [child.stdout, child.stderr].some(isPaused))
        late = this.#lateness(DRAIN_MS);
    }
    child.stdout?.destroy();
    child.stderr?.destroy();
    await closed;
  }

  #lateness(delayMs: number): Promise<true> {
    return new Promise((resolve) => this.#timers.push(this.#options.clock.after(delayMs, () => resolve(true))));
  }

  #stop(ending: Ending): void {
    if (this.#exited) return;
    if (ending === 'fenced') return this.#killNow();
    if (this.#ending) return;
    this.#ending = ending;
    if (this.pid === 0) return;
    this.#sampler.sampleNow(this);
    for (const entry of findTree(this.pid, this.#cookie, this.tracked)) {
      this.tracked.set(entry.pid, entry.startTicks);
      if (entry.group !== this.pid && !this.keepers.has(entry.pid)) sendSignal(entry.pid, 'SIGTERM');
    }
    // A keeper that ended now would take what it keeps along, without its grace.
    if (!this.keepers.has(this.pid)) sendSignal(-this.pid, 'SIGTERM');
    const kill = () => void killTree(this.pid, this.#cookie, this.tracked);
    this.#timers.push(this.#options.clock.after(this.#options.graceMs ?? 2000, kill));
  }

  #killNow(): void {
    this.#ending = this.#ending === 'cancelled' ? 'cancelled' : 'fenced';
    if (this.pid !== 0) this.#kill();
  }

  #kill(): void {
    this.#contained?.kill();
    void killTree(this.pid, this.#cookie, this.tracked);
  }

  #end(how: { exitCode?: number | undefined; signal?: string | undefined; error?: string | undefined }): AttemptEnd {
    const { exitCode, signal } = how;
    const base = {
      exitCode,
      signal,
      runUs: Math.round(this.#runMs * 1000),
      peakMemoryBytes: this.peakMemoryBytes,
      resultJson: undefined,
    };
    switch (this.#ending) {
      case 'timed-out':
        return {
          ...base,
          outcome: 'timed-out',
          error: `timed out after ${describeDuration(this.#attempt.body.timeoutMs)}`,
        };
      case 'exceeded':
        return { ...base, outcome: 'failed', error: this.#excess };
      case 'cancelled':
      case 'shutdown':
      case 'fenced':
        return { ...base, outcome: this.#ending, error: stopProblem(this.#ending) };
      default:
        if (exitCode === 0) return { ...base, outcome: 'succeeded', error: undefined };
        return { ...base, outcome: 'failed', error: how.error ?? this.#exitProblem(how) };
    }
  }

  #exitProblem({ exitCode, signal }: Partial<Exit>): string {
    if (this.#cgroup?.outOfMemory) return outOfMemoryProblem(this.bounds.memoryBytes);
    return excessProblem(this.bounds, signal, this.peakProcesses) ?? exitProblem(exitCode, signal);
  }

  #failure(error: unknown): AttemptEnd {
    if (this.#ending) return this.#end({});
    if (error instanceof MeshError) return this.#end({ error: error.message });
    const work = this.#attempt.body.work;
    const command = work?.$case === 'process' ? (fillArguments(work.value.argv, this.#attempt)[0] ?? '') : '';
    const problem = error instanceof NodeFault ? { error: error.message } : spawnProblem(error, command);
    const end = this.#end(problem);
    return problem.exitCode === undefined ? { ...end, outcome: 'node-fault' } : end;
  }
}

const NO_KEEPERS: ReadonlySet<number> = new Set();

const isPaused = (stream: Readable | null): boolean => stream?.isPaused() === true;

/** What a launcher says of itself is not the task's output. */
function forward(from: Readable, stream: Stream, sink: OutputSink, complaint?: Complaint): void {
  from.on('data', (data: Buffer) => {
    if (sink.write(stream, complaint ? complaint.pass(data) : data)) return;
    from.pause();
    sink.whenDrained(() => from.resume());
  });
  from.on('error', () => undefined);
}
