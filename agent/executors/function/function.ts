/**
 * Runs JavaScript functions: one module file, shipped by content, in a runner process with a thread per slot. Attempts
 * of one job travel and run in batches sized by how long they take, so that a batch is a few milliseconds of work.
 */
import { chownSync, mkdirSync } from 'node:fs';
import { chmod, copyFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { MeshError, systemCode } from '../../../common/errors.js';
import type { Logger } from '../../../common/log.js';
import type { JobBody } from '../../../proto/gen/mesh/v1/agent.js';
import type { Executor, LaunchObserver, LaunchSpec, RunningLaunch } from '../../core/types.js';
import { NodeFault } from '../../core/types.js';
import { type FileSource, placeFiles } from '../../staging/place.js';
import type { Janitor } from '../janitor.js';
import type { StrayWatch } from '../strays.js';
import type { WorkRoot } from '../workroot.js';
import { LaunchRun } from './launch-run.js';
import { RunnerProcess } from './runner-process.js';
import { prepareRuntime, type Runtime } from './runtime.js';

/** Work in one batch: long beside the few hundred microseconds a round trip costs, short beside what people notice. */
const BATCH_US = 5000;
const BATCH_MAX = 512;
/** What was measured before counts half as much after every batch. */
const DECAY = 0.5;
const JOBS_MEASURED_MAX = 1000;

export interface FunctionExecutorOptions {
  workRoot: WorkRoot;
  files: FileSource;
  strays: StrayWatch;
  janitor: Janitor;
  log: Logger;
  nodeName: () => string;
  /** Worker threads at most. */
  slots: number;
  /** Where the compiled runner is; found by itself otherwise. */
  runtimeFrom?: string;
}

export class FunctionExecutor implements Executor {
  readonly name = 'function';
  readonly #options: FunctionExecutorOptions;
  readonly #modules = new Map<string, Promise<string>>();
  /** How long attempts of a job took, decayed; the least recently measured job first. */
  readonly #measured = new Map<number, { count: number; totalUs: number }>();
  #runtime: Runtime | undefined;
  #runner: RunnerProcess | undefined;
  readonly #alone = new Set<RunnerProcess>();
  readonly #runs = new Set<Promise<void>>();
  #stopping = false;

  constructor(options: FunctionExecutorOptions) {
    this.#options = options;
  }

  /** Puts the runner's files where its user can read them. The runner itself is started when it is first needed. */
  async prepare(): Promise<void> {
    this.#runtime = await prepareRuntime(this.#options.workRoot.path, this.#options.runtimeFrom);
  }

  /** Kills the runners; what still ran in them ends as `shutdown`. */
  async close(): Promise<void> {
    this.#stopping = true;
    const runners = this.#runner ? [this.#runner, ...this.#alone] : [...this.#alone];
    await Promise.all(runners.map((runner) => runner.stop()));
    await Promise.all(this.#runs);
  }

  launchMax(body: JobBody): number {
    const measured = this.#measured.get(body.job);
    if (!measured) return 1;
    const meanUs = Math.max(1, measured.totalUs / measured.count);
    return Math.min(BATCH_MAX, Math.max(1, Math.floor(BATCH_US / meanUs)));
  }

  start(launch: LaunchSpec, observer: LaunchObserver): RunningLaunch {
    const run = new LaunchRun(launch, observer);
    const done = this.#execute(launch, run);
    this.#runs.add(done);
    void done.finally(() => this.#runs.delete(done));
    return { stop: (position, reason) => run.stop(position, reason), done };
  }

  async #execute(launch: LaunchSpec, run: LaunchRun): Promise<void> {
    const { nodeName, janitor } = this.#options;
    const directories: string[] = [];
    try {
      const work = launch.body.work;
      if (work?.$case !== 'function') throw new MeshError('BAD_SPEC', 'the job has no function');
      const path = await this.#module(work.value.moduleDigest);
      if (launch.attempts.some((attempt) => attempt.input?.files.length)) await this.#stage(launch, directories);
      const context = {
        work: {
          module: pathToFileURL(path).href,
          exportName: work.value.exportName,
          environment: work.value.environment,
          jobId: launch.body.jobId,
          taskCount: launch.body.taskCount,
          node: nodeName(),
        },
        directories: directories.length > 0 ? directories : undefined,
        closing: () => this.#stopping,
        measure: (count: number, totalUs: number) => this.#measure(launch.body.job, count, totalUs),
      };
      await run.run(context, this.#shared(), () => this.#startAlone());
      // Only a runner that was killed by `close` leaves something open.
      run.endAll('shutdown', 'the agent was stopped');
    } catch (error) {
      if (error instanceof MeshError) run.endAll('failed', error.message);
      else run.endAll('node-fault', error instanceof Error ? error.message : String(error));
    } finally {
      for (const directory of directories) if (directory) janitor.remove(directory);
    }
  }

  #shared(): RunnerProcess {
    if (!this.#runner?.alive) this.#runner = this.#startRunner(this.#options.slots);
    return this.#runner;
  }

  #startAlone(): RunnerProcess {
    const runner = this.#startRunner(1);
    this.#options.log.warn({ event: 'function.runner-died' }, 'the function runner died; its attempts run alone now');
    for (const earlier of this.#alone) if (!earlier.alive) this.#alone.delete(earlier);
    this.#alone.add(runner);
    return runner;
  }

  #startRunner(slots: number): RunnerProcess {
    if (!this.#runtime) throw new Error('the function executor was not prepared');
    if (this.#stopping) throw new NodeFault('the agent is stopping');
    const { workRoot, strays } = this.#options;
    return new RunnerProcess({ program: this.#runtime.runner, workRoot, strays, slots });
  }

  /** The module's file where the runner can read it, once per digest. */
  #module(digest: string): Promise<string> {
    let ready = this.#modules.get(digest);
    if (!ready) {
      ready = this.#placeModule(digest);
      ready.catch(() => this.#modules.delete(digest));
      this.#modules.set(digest, ready);
    }
    return ready;
  }

  async #placeModule(digest: string): Promise<string> {
    const path = join(this.#runtime?.modules ?? '', `${digest}.mjs`);
    try {
      await this.#options.files.withFile(digest, async (cached) => {
        await rm(`${path}.tmp`, { force: true });
        await copyFile(cached, `${path}.tmp`);
        await chmod(`${path}.tmp`, 0o444);
        await rename(`${path}.tmp`, path);
      });
    } catch (error) {
      if (error instanceof NodeFault) throw error;
      throw new NodeFault(`the module could not be placed: ${systemCode(error) ?? String(error)}`, error);
    }
    return path;
  }

  async #stage(launch: LaunchSpec, directories: string[]): Promise<void> {
    const { workRoot, files } = this.#options;
    for (const attempt of launch.attempts) {
      const staged = attempt.input?.files ?? [];
      if (staged.length === 0) {
        directories.push('');
        continue;
      }
      const directory = join(workRoot.path, `${attempt.job}.${attempt.index}.${attempt.generation}-function`);
      directories.push(directory);
      mkdirSync(directory, { mode: 0o700 });
      await placeFiles(staged, directory, files, workRoot.user);
      if (workRoot.user) chownSync(directory, workRoot.user.uid, workRoot.user.gid);
    }
  }

  #measure(job: number, count: number, totalUs: number): void {
    if (count === 0) return;
    const known = this.#measured.get(job) ?? { count: 0, totalUs: 0 };
    this.#measured.delete(job);
    this.#measured.set(job, { count: known.count * DECAY + count, totalUs: known.totalUs * DECAY + totalUs });
    if (this.#measured.size <= JOBS_MEASURED_MAX) return;
    const oldest = this.#measured.keys().next();
    if (!oldest.done) this.#measured.delete(oldest.value);
  }
}
