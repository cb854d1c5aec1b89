/**
 * Runs commands: each by itself (RunningProcess), or, where they are short and nothing about them is special, several of a
 * job in one launch, one after the other (ChainRun).
 */
import { stopsAlone } from '../core/ledger.js';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import type { Executor, LaunchObserver, LaunchSpec, RunningLaunch } from '../core/types.js';
import { CHAIN_MOST_US, ChainRun } from './chain-run.js';
import { Directories } from './directories.js';
import { LaunchSizes } from './launch-size.js';
import { type ProcessExecutorOptions, RunningProcess, type Shared } from './running-process.js';
import { boundsOf } from './sandbox/bounds.js';
import { processTier } from './sandbox/tier.js';
import { Sampler } from './sampler.js';

/**
 * Work in one launch, and up to CHAIN_MOST_US while as much waits for each slot: what waits behind a command that takes long
 * is told to wait elsewhere after about as long.
 */
const CHAIN_US = 100_000;
const CHAIN_MAX = 256;
/** A shorter one is to be kept to exactly, so the agent has to know when the command begins. */
const TIMEOUT_MS_MIN = 1000;

export class ProcessExecutor implements Executor {
  readonly name = 'process';
  readonly #options: ProcessExecutorOptions;
  readonly #shared: Shared;
  readonly #sizes = new LaunchSizes(CHAIN_US, CHAIN_MAX, CHAIN_MOST_US);

  constructor(options: ProcessExecutorOptions) {
    this.#options = options;
    const directories = new Directories(options.workRoot.path, options.janitor);
    this.#shared = { sampler: new Sampler(options.clock), directories };
  }

  launchMax(body: JobBody, share = 0): number {
    return this.#plain(body) ? this.#sizes.of(body.job, share) : 1;
  }

  start(launch: LaunchSpec, observer: LaunchObserver): RunningLaunch {
    const { job } = launch.body;
    const measure = (count: number, totalUs: number) => this.#sizes.measure(job, count, totalUs);
    const [attempt, ...others] = launch.attempts;
    if (!attempt) throw new Error('there is nothing to run');
    const chain = others.length > 0 && ChainRun.begin(this.#options, this.#shared, launch, observer, measure);
    if (chain) return chain;
    if (others.length > 0) queueMicrotask(() => observer.returned(others.map((_, i) => i + 1)));
    const measured: LaunchObserver = {
      ...observer,
      ended: (position, end) => {
        // Where it could not go with others, the next one goes alone, too.
        const suits = others.length === 0 && !attempt.input?.files.length;
        measure(1, suits ? end.runUs : Math.max(end.runUs, CHAIN_MOST_US));
        observer.ended(position, end);
      },
    };
    const running = new RunningProcess(this.#options, this.#shared, attempt, launch, measured);
    return { stop: (position, reason) => position === 0 && running.stop(reason), done: running.run() };
  }

  /** Nothing about it needs the agent before it has run for a while. */
  #plain(body: JobBody): boolean {
    const { spawner, tiers } = this.#options;
    if (!spawner?.available || stopsAlone(body) || body.secrets.length > 0) return false;
    if (body.timeoutMs > 0 && body.timeoutMs < TIMEOUT_MS_MIN) return false;
    // Memory may be bounded by a group of the system's, which the agent enters.
    const { memoryBytes } = boundsOf(body.resources, body.limits, tiers.bounds);
    return memoryBytes === 0 && tiers.offers(body) === processTier;
  }
}
