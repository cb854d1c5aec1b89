/**
 * Runs JavaScript functions: one module file, shipped by content, in a runner process with a thread per slot. Attempts
 * of one job travel and run in batches sized by how long they take, so that a batch is a few milliseconds of work.
 */
import { chownSync, mkdirSync } from 'node:fs';
import { chmod, copyFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Clock } from '../../../common/clock.js';
import { MeshError, systemCode } from '../../../common/errors.js';
import type { Service } from '../../../common/lifecycle.js';
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
/** Weight of the newest batch in a job's mean time per attempt. */
const SMOOTHING = 0.3;
const JOBS_MEASURED_MAX = 1000;

export interface FunctionExecutorOptions {
  workRoot: WorkRoot;
  files: FileSource;
  strays: StrayWatch;
  janitor: Janitor;
  clock: Clock;
  log: Logger;
  nodeName: () => string;
  /** Worker threads at most. */
  slots: number;
  /** Where the compiled runner is; found by itself otherwise. */
  runtimeFrom?: string;
}

export class FunctionExecutor implements Executor, Service {
  readonly name = 'function';
  readonly #options: FunctionExecutorOptions;
  readonly #modules = new Map<string, Promise<string>>();
  /** Mean microseconds per attempt, by job; the least recently measured first. */
  readonly #meanUs = new Map<number, number>();
  #runtime: Runtime | undefined;
  #runner: RunnerProcess | undefined;
  readonly #alone = new Set<RunnerProcess>();
  readonly #runs = new Set<Promise<void>>();
  #stopping = false;

  constructor(options: FunctionExecutorOptions) {
    this.#options = options;
  }

  async start(): Promise<void>;
  start(launch: LaunchSpec, observer: LaunchObserver): RunningLaunch;
  start(launch?: LaunchSpec, observer?: LaunchObserver): Promise<void> | RunningLaunch {
    if (!launch || !observer) return this.#prepare();
    const run = new LaunchRun(launch, observer);
    const done = this.#execute(launch, run);
    this.#runs.add(done);
    void done.finally(() => this.#runs.delete(done));
    return { stop: (position, reason) => run.stop(position, reason), done };
  }
}
