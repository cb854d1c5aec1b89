/**
 * Runs JavaScript functions: one module file, shipped by content, in a runner process with a thread per slot. Attempts
 * of one job travel and run in batches sized by how long they take, so that a batch is a few milliseconds of work.
 */
import { chownSync, mkdirSync, renameSync } from 'node:fs';
import { chmod, copyFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { MeshError, systemCode } from '../../../common/errors.js';
import type { Logger } from '../../../common/log.js';
import type { JobBody } from '../../../proto/gen/mesh/v1/agent.js';
import type { Executor, LaunchObserver, LaunchSpec, RunningLaunch } from '../../core/types.js';
import { NodeFault } from '../../core/types.js';
import { type FileSource, placeFiles } from '../../staging/place.js';
import type { Janitor } from '../janitor.js';
import { LaunchSizes } from '../launch-size.js';
import type { Tiers } from '../sandbox/tiers.js';
import type { SecretFiles } from '../secret-files.js';
import type { StrayWatch } from '../strays.js';
import type { WorkRoot } from '../workroot.js';
import { LaunchRun } from './launch-run.js';
import { type Room, Rooms } from './rooms.js';
import type { RunnerProcess } from './runner-process.js';
import { prepareRuntime, type Runtime } from './runtime.js';

/** Work in one batch: long beside the few hundred microseconds a round trip costs, short beside what people notice. */
const BATCH_US = 5000;
const BATCH_MAX = 512;
export interface FunctionExecutorOptions {
  workRoot: WorkRoot;
  files: FileSource;
  strays: StrayWatch;
  janitor: Janitor;
  tiers: Tiers;
  log: Logger;
  /** Undefined where secrets cannot be kept in memory as files. */
  secretFiles?: SecretFiles | undefined;
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
  readonly #sizes = new LaunchSizes(BATCH_US, BATCH_MAX);
  #runtime: Runtime | undefined;
  #rooms: Rooms | undefined;
  readonly #runs = new Set<Promise<void>>();
  #stopping = false;

  constructor(options: FunctionExecutorOptions) {
    this.#options = options;
  }

  /** Puts the runner's files where its user can read them. The runner itself is started when it is first needed. */
  async prepare(): Promise<void> {
    this.#runtime = await prepareRuntime(this.#options.workRoot, this.#options.runtimeFrom);
    this.#rooms = new Rooms(this.#options, this.#runtime);
  }

  /** Kills the runners; what still ran in them ends as `shutdown`. */
  async close(): Promise<void> {
    this.#stopping = true;
    await this.#rooms?.close();
    await Promise.all(this.#runs);
  }

  launchMax(body: JobBody): number {
    return this.#sizes.of(body.job);
  }

  start(launch: LaunchSpec, observer: LaunchObserver): RunningLaunch {
    const run = new LaunchRun(launch, observer);
    const done = this.#execute(launch, run);
    this.#runs.add(done);
    void done.finally(() => this.#runs.delete(done));
    return { stop: (position, reason) => run.stop(position, reason), done };
  }

  async #execute(launch: LaunchSpec, run: LaunchRun): Promise<void> {
    const { nodeName } = this.#options;
    const directories: string[] = [];
    let room: Room | undefined;
    try {
      const work = launch.body.work;
      if (work?.$case !== 'function') throw new MeshError('BAD_SPEC', 'the job has no function');
      const path = await this.#module(work.value.moduleDigest);
      const entered = this.#enter(launch, path);
      room = entered;
      if (launch.attempts.some((attempt) => attempt.input?.files.length))
        await this.#stage(launch, entered.directory, directories);
      const context = {
        work: {
          module: pathToFileURL(path).href,
          exportName: work.value.exportName,
          environment: { ...work.value.environment, ...entered.variables },
          jobId: launch.body.jobId,
          taskCount: launch.body.taskCount,
          node: nodeName(),
        },
        directories: directories.length > 0 ? directories : undefined,
        closing: () => this.#stopping,
        measure: (count: number, totalUs: number) => this.#sizes.measure(launch.body.job, count, totalUs),
      };
      await run.run(context, entered.shared, () => this.#startAlone(entered));
      // Only a runner that was killed by `close` leaves something open.
      run.endAll('shutdown', 'the agent was stopped');
    } catch (error) {
      if (error instanceof MeshError) run.endAll('failed', error.message);
      else run.endAll('node-fault', error instanceof Error ? error.message : String(error));
    } finally {
      for (const directory of directories) if (directory) this.#withdraw(directory);
      if (room) this.#rooms?.leave(room);
    }
  }

  #enter(launch: LaunchSpec, modulePath: string): Room {
    if (!this.#rooms) throw new Error('the function executor was not prepared');
    if (this.#stopping) throw new NodeFault('the agent is stopping');
    return this.#rooms.enter(launch, modulePath);
  }

  #startAlone(room: Room): RunnerProcess {
    if (this.#stopping) throw new NodeFault('the agent is stopping');
    this.#options.log.warn({ event: 'function.runner-died' }, 'the function runner died; its attempts run alone now');
    return room.startAlone();
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

  /**
   * Files are put in place where no task can reach, then the finished directory is moved to where they can: a function
   * could otherwise swap a folder for a link while we write into it, or while we remove it.
   */
  async #stage(launch: LaunchSpec, room: string, directories: string[]): Promise<void> {
    const { workRoot, files } = this.#options;
    for (const attempt of launch.attempts) {
      const staged = attempt.input?.files ?? [];
      if (staged.length === 0) {
        directories.push('');
        continue;
      }
      const name = `${attempt.job}.${attempt.index}.${attempt.generation}-function`;
      const outside = join(workRoot.path, name);
      directories.push(join(room, name));
      mkdirSync(outside, { mode: 0o700 });
      await placeFiles(staged, outside, files, workRoot.user);
      if (workRoot.user) chownSync(outside, workRoot.user.uid, workRoot.user.gid);
      if (room !== workRoot.path) renameSync(outside, join(room, name));
    }
  }

  #withdraw(directory: string): void {
    const outside = join(this.#options.workRoot.path, basename(directory));
    try {
      if (outside !== directory) renameSync(directory, outside);
    } catch (err) {
      // It never got there when its files could not be placed.
      if (systemCode(err) !== 'ENOENT')
        this.#options.log.warn({ event: 'work.left-behind', err, paths: [directory] }, 'a directory cannot be moved');
    }
    this.#options.janitor.remove(outside);
  }
}
