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
import { chownSync, mkdirSync } from 'node:fs';
import type { Clock, Timer } from '../../common/clock.js';
import { MeshError, systemCode } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import type { AttemptEnd, AttemptSpec, LaunchObserver, LaunchSpec, StopReason } from '../core/types.js';
import { stopsAlone } from '../core/ledger.js';
import { NodeFault } from '../core/types.js';
import { type FileSource, placeFiles } from '../staging/place.js';
import { type Child, type DirectoryCare, type Ended, startHere, type Starter } from './child.js';
import type { Directories, PrivateDirectory } from './directories.js';
import { plainCommand } from './environment.js';
import type { Janitor } from './janitor.js';
import { sendSignal } from './process-table.js';
import type { Sampler } from './sampler.js';
import { notStarted } from './ends.js';
import { describeDuration, excessProblem, exitProblem, outOfMemoryProblem, stopProblem } from './problems.js';
import { type Bounds, boundsOf, UNBOUNDED } from './sandbox/bounds.js';
import type { Cgroup } from './sandbox/cgroups.js';
import { type Contained, type Exit, uncontained } from './sandbox/tier.js';
import type { Tiers } from './sandbox/tiers.js';
import { type PlacedSecrets, placeSecrets, type SecretFiles } from './secret-files.js';
import type { Spawner } from './spawner/spawner.js';
import { findTree, issueCookie, killTree, type StrayWatch, type Tracked } from './strays.js';
import type { WorkRoot } from './workroot.js';

/** How long the output may stay open after the main process has ended before the holders are looked for. */
const DRAIN_MS = 200;

export interface ProcessExecutorOptions {
  workRoot: WorkRoot;
  files: FileSource;
  strays: StrayWatch;
  janitor: Janitor;
  tiers: Tiers;
  /** Undefined: the agent starts processes itself. */
  spawner?: Spawner | undefined;
  /** Undefined where secrets cannot be kept in memory as files. */
  secretFiles?: SecretFiles | undefined;
  clock: Clock;
  log: Logger;
  /** MESH_NODE. */
  nodeName: () => string;
  /** Between SIGTERM and SIGKILL. Default 2 s. */
  graceMs?: number;
}

/** What all attempts of an executor have in common. */
export interface Shared {
  sampler: Sampler;
  directories: Directories;
}

type Ending = StopReason | 'timed-out' | 'exceeded';

/** One that runs already, in a directory that is somebody else's to give back. */
export interface Begun {
  child: Child;
  directory: string;
  cookie: string;
  ageMs: number;
}

export class RunningProcess {
  readonly tracked: Tracked = new Map();
  peakMemoryBytes: number | undefined;
  bounds: Bounds = UNBOUNDED;
  peakProcesses = 0;
  readonly #options: ProcessExecutorOptions;
  readonly #sampler: Sampler;
  readonly #directories: Directories;
  readonly #attempt: AttemptSpec;
  readonly #launch: LaunchSpec;
  readonly #observer: LaunchObserver;
  #directory: PrivateDirectory | undefined;
  readonly #begun: Begun | undefined;
  readonly #cookie: string;
  #starter: Starter = startHere;
  #directoryCare: DirectoryCare | undefined;
  #placed: PlacedSecrets | undefined;
  #contained: Contained | undefined;
  #cgroup: Cgroup | undefined;
  /** Why we end it; undefined while it may run. */
  #ending: Ending | undefined;
  /** Which bound it went beyond, for a person. */
  #excess = '';
  #exited = false;
  #directoryPristine = false;
  #timers: Timer[] = [];
  #startedMs: number;
  #runMs = 0;

  constructor(
    options: ProcessExecutorOptions,
    { sampler, directories }: Shared,
    attempt: AttemptSpec,
    launch: LaunchSpec,
    observer: LaunchObserver,
    begun?: Begun,
  ) {
    this.#options = options;
    this.#sampler = sampler;
    this.#directories = directories;
    this.#attempt = attempt;
    this.#launch = launch;
    this.#observer = observer;
    this.#startedMs = options.clock.monotonicMs() - (begun?.ageMs ?? 0);
    this.#begun = begun;
    this.#cookie = begun?.cookie ?? issueCookie(options.strays, attempt);
  }

  async run(): Promise<void> {
    let end: AttemptEnd;
    try {
      // One that runs already is followed from this turn on: its output is about to come.
      if (!this.#begun) await this.#prepare();
      end = this.#ending ? this.#end({}) : await this.#execute();
    } catch (error) {
      // Nobody can say whether any of it still runs.
      if (this.#contained && error instanceof NodeFault) await this.#killTree();
      end = this.#failure(error);
    }
    for (const timer of this.#timers) timer.cancel();
    this.#sampler.remove(this);
    this.#cgroup?.remove();
    this.#options.strays.retire(this.#cookie);
    if (this.#directory) this.#directories.give(this.#attempt.job, this.#directory.path, this.#directoryPristine);
    this.#placed?.remove();
    this.#observer.ended(0, end);
    if (this.#directory) this.#directories.over();
  }

  stop(reason: StopReason): void {
    this.#stop(reason);
  }

  get #path(): string {
    return this.#begun?.directory ?? (this.#directory as PrivateDirectory).path;
  }

  /** Zero until it is known, and after the end, when it may be another's. */
  get pid(): number {
    return this.#exited ? 0 : (this.#contained?.child.pid ?? 0);
  }

  get keepers(): ReadonlySet<number> {
    return this.#contained?.keepers ?? NO_KEEPERS;
  }

  /** It uses more than it may: there is no grace, because by the end of one the machine would have paid for it. */
  exceeded(problem: string): void {
    if (this.#exited || this.#ending) return;
    this.#excess = problem;
    this.#ending = 'exceeded';
    this.#contained?.kill();
    void this.#killTree();
  }

  /** The directory is made here where something is to be put into it; elsewhere by whoever starts the process. */
  async #prepare(): Promise<void> {
    const { workRoot, files, secretFiles, tiers, spawner } = this.#options;
    const { body, input } = this.#attempt;
    this.bounds = boundsOf(body.resources, body.limits, tiers.bounds);
    this.#cgroup = tiers.cgroupFor(this.bounds);
    // A group is entered by the agent itself, and left with its next breath. And what must be dead when a lease ends is killed
    // by the agent alone, which knows its number from the start: after a sleep the spawner may be the last to wake.
    if (spawner?.available && !this.#cgroup && !stopsAlone(body)) this.#starter = spawner.starter;
    const bare = this.#starter !== startHere && !input?.files.length;
    this.#directory = bare ? this.#directories.take(this.#attempt.job) : this.#directories.takeNew();
    const { path } = this.#directory;
    try {
      if (!bare) {
        // Its user's only when all is in place: nobody changes it under our hands.
        mkdirSync(path, { mode: 0o700 });
        if (input?.files.length) await placeFiles(input.files, path, files, workRoot.user);
        if (workRoot.user) chownSync(path, workRoot.user.uid, workRoot.user.gid);
      } else this.#directoryCare = this.#directory.made ? 'check' : 'make';
      this.#placed = placeSecrets(secretFiles, this.#launch.secrets);
    } catch (error) {
      if (error instanceof NodeFault || error instanceof MeshError) throw error;
      throw new NodeFault(`no working directory could be made: ${systemCode(error) ?? String(error)}`, error);
    }
  }

  /** Resolves when the main process has ended and its output is closed. Rejects when it could not be started. */
  async #execute(): Promise<AttemptEnd> {
    const { clock } = this.#options;
    const begun = this.#begun;
    if (begun)
      this.bounds = boundsOf(this.#attempt.body.resources, this.#attempt.body.limits, this.#options.tiers.bounds);
    const contained = begun ? uncontained(begun.child) : this.#spawn();
    const { child, complaint } = contained;
    this.#contained = contained;
    const ageMs = begun?.ageMs ?? 0;
    this.#startedMs = clock.monotonicMs() - ageMs;
    this.#sampler.add(this, ageMs);
    this.#observer.started(0, ageMs);
    const sink = this.#observer.output(0);
    child.onOutput((index, data) => {
      // What a launcher says of itself is not the task's output.
      const own = index === 1 && complaint ? complaint.pass(data) : data;
      if (sink.write(index === 0 ? Stream.STDOUT : Stream.STDERR, own)) return;
      child.pause(index);
      sink.whenDrained(() => child.resume(index));
    });
    const { timeoutMs } = this.#attempt.body;
    if (timeoutMs > 0) this.#timers.push(clock.after(Math.max(0, timeoutMs - ageMs), () => this.#stop('timed-out')));
    const ended = this.#onExit(await child.exited);
    if (this.#ending) await this.#killTree();
    await this.#drain(child);
    const how = await contained.verdict(ended);
    // Not sooner: where there are keepers, what they keep may live a little longer than the process that was waited for.
    this.#directoryPristine = ended.directoryPristine === true;
    if (complaint) sink.write(Stream.STDERR, complaint.release());
    return this.#end(how);
  }

  #onExit(ended: Ended): Ended {
    this.#exited = true;
    this.#runMs = ended.runMs ?? this.#options.clock.monotonicMs() - this.#startedMs;
    if (ended.directoryAside) this.#options.janitor.remove(`${this.#path}${ended.directoryAside}`);
    this.#contained?.kill();
    return ended;
  }

  #spawn(): Contained {
    const { workRoot, tiers } = this.#options;
    const attempt = this.#attempt;
    const { gpus, secrets } = this.#launch;
    const secretDirectory = this.#placed?.directory;
    const command = {
      ...plainCommand(attempt, {
        node: this.#options.nodeName(),
        directory: this.#path,
        gpus,
        cookie: this.#cookie,
        secrets: secrets?.variables(secretDirectory),
      }),
      ...{ directoryCare: this.#directoryCare, cookie: this.#cookie, user: workRoot.user },
      ...{ gpus, net: attempt.body.net, bounds: this.bounds },
      ...(secretDirectory === undefined ? {} : { readable: [secretDirectory] }),
    };
    const tier = tiers.choose(attempt.body);
    const start = () => tier.start(command, this.#starter);
    return this.#cgroup ? this.#cgroup.around(start) : start();
  }

  /** Whoever still holds the output open left the group: find and kill them, then wait no longer. */
  async #drain(child: Child): Promise<void> {
    let closed = false;
    const whenClosed = child.closed.then(() => {
      closed = true;
    });
    // Of a short command it nearly always is, and nobody needs a timer.
    await Promise.resolve();
    if (closed) return;
    if (await Promise.race([whenClosed.then(() => false), this.#lateness(DRAIN_MS)])) {
      // A paused stream is not held open by anybody: the spool is behind, and catches up.
      await this.#killTree();
      let late = this.#lateness(DRAIN_MS);
      while ((await Promise.race([whenClosed.then(() => false), late])) && child.paused)
        late = this.#lateness(DRAIN_MS);
    }
    child.abandon();
    await whenClosed;
  }

  #lateness(delayMs: number): Promise<true> {
    return new Promise((resolve) => this.#timers.push(this.#options.clock.after(delayMs, () => resolve(true))));
  }

  #stop(ending: Ending): void {
    if (this.#exited) return;
    if (ending === 'fenced') return this.#killNow();
    if (this.#ending) return;
    this.#ending = ending;
    this.#whenRunning(() => this.#terminate());
  }

  /** SIGTERM to the tree, and SIGKILL when the grace is over. */
  #terminate(): void {
    this.#sampler.sampleNow(this);
    for (const entry of findTree(this.pid, this.#cookie, this.tracked)) {
      this.tracked.set(entry.pid, entry.startTicks);
      if (entry.group !== this.pid && !this.keepers.has(entry.pid)) sendSignal(entry.pid, 'SIGTERM');
    }
    // A keeper that ended now would take what it keeps along, without its grace.
    if (!this.keepers.has(this.pid)) this.#contained?.child.signalGroup('SIGTERM');
    const kill = () => void this.#killTree();
    this.#timers.push(this.#options.clock.after(this.#options.graceMs ?? 2000, kill));
  }

  #killNow(): void {
    this.#ending = this.#ending === 'cancelled' ? 'cancelled' : 'fenced';
    // At once: its number may be told only when it has run for a while.
    this.#contained?.kill();
    this.#whenRunning(() => void this.#killTree());
  }

  #killTree(): Promise<void> {
    return killTree(this.#exited ? undefined : this.#contained?.child, this.#cookie, this.tracked);
  }

  /** Acts on the process as soon as its number is known, unless it has ended by then. Before the start it does nothing. */
  #whenRunning(act: () => void): void {
    const child = this.#contained?.child;
    child?.whenKnown(() => {
      if (!this.#exited) act();
    });
    child?.ask();
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
    return this.#ending ? this.#end({}) : notStarted(error, this.#attempt);
  }
}

const NO_KEEPERS: ReadonlySet<number> = new Set();
