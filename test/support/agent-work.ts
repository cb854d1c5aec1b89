/** An agent's work with everything around it in the test's hands: executor, session and clock. */
import type { Test } from 'tap';
import { silentLogger } from '../../common/log.js';
import { Ledger } from '../../agent/core/ledger.js';
import type {
  AttemptEnd,
  AttemptOutcome,
  Executor,
  LaunchObserver,
  LaunchSpec,
  RunningLaunch,
  StopReason,
} from '../../agent/core/types.js';
import { LeaseClock } from '../../agent/core/lease.js';
import { Fence } from '../../agent/session/fence.js';
import { LogStreamer } from '../../agent/session/log-streamer.js';
import { Outbox } from '../../agent/session/outbox.js';
import { SteadyTime } from '../../agent/session/steady-time.js';
import type { Reconciliation, Upstream } from '../../agent/session/upstream.js';
import { Work } from '../../agent/session/work.js';
import {
  type Assign,
  type Finished,
  type FinishedBatch,
  type JobBody,
  Outcome,
  type SucceededRun,
  type TaskRefs,
} from '../../proto/gen/mesh/v1/agent.js';
import { ManualClock } from './manual-clock.js';
import { MemoryJournal } from './memory-journal.js';

export type Ref = readonly [job: number, index: number, generation: number];

export const refsOf = (...items: Ref[]): TaskRefs => ({
  jobs: items.map(([job]) => job),
  indexes: items.map(([, index]) => index),
  generations: items.map(([, , generation]) => generation),
});

export const refText = ({ job, index, generation }: { job: number; index: number; generation: number }): string =>
  `${job}.${index}.${generation}`;

export const processBody = (job: number, argv: string[] = ['true']): JobBody => ({
  job,
  jobId: `job-${job}`,
  work: { $case: 'process', value: { argv, environment: {} } },
  resources: { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {} },
  timeoutMs: 0,
  taskCount: 10,
  array: undefined,
  logBytesMax: 0,
  onDisconnect: 1,
  sandbox: 0,
  net: false,
  limits: undefined,
  secrets: [],
});

export const assignOf = (
  job: number,
  indexes: number[],
  bodies: JobBody[] = [],
  generation = 1,
  epoch = 1,
): Assign => ({
  epoch,
  bodies,
  groups: [{ job, indexes, generations: indexes.map(() => generation), attempts: [], inputs: [] }],
  secrets: [],
});

export const finishedOf = ([job, index, generation]: Ref, more: Partial<Finished> = {}): Finished => ({
  ...{ job, index, generation, outcome: Outcome.SUCCEEDED, exitCode: 0, signal: '', error: '', runUs: 1, ageMs: 0 },
  ...{ peakMemoryBytes: undefined, resultJson: '', output: undefined },
  ...more,
});

export const endOf = (outcome: AttemptOutcome = 'succeeded'): AttemptEnd => ({
  outcome,
  exitCode: outcome === 'succeeded' ? 0 : undefined,
  ...{ signal: undefined, error: undefined, runUs: 1500, peakMemoryBytes: 4096, resultJson: undefined },
});

/** What an executor was asked to start; the test says how it goes on. */
export class FakeLaunch implements RunningLaunch {
  readonly stopped: { position: number; reason: StopReason }[] = [];
  readonly done = Promise.resolve();

  constructor(
    readonly spec: LaunchSpec,
    readonly observer: LaunchObserver,
  ) {}

  get refs(): string[] {
    return this.spec.attempts.map(refText);
  }

  stop(position: number, reason: StopReason): void {
    this.stopped.push({ position, reason });
  }
}

export class FakeExecutor implements Executor {
  readonly name = 'process';
  readonly launches: FakeLaunch[] = [];
  together = 1;

  launchMax(): number {
    return this.together;
  }

  start(spec: LaunchSpec, observer: LaunchObserver): RunningLaunch {
    const launch = new FakeLaunch(spec, observer);
    this.launches.push(launch);
    return launch;
  }

  /** The launch of this number, from 0. */
  launch(number: number): FakeLaunch {
    const launch = this.launches[number];
    if (!launch) throw new Error(`only ${this.launches.length} launches were started`);
    return launch;
  }
}

/** A session that only writes down what it is given. */
export class RecordedUpstream implements Upstream {
  takesRun: (run: SucceededRun) => boolean = () => true;
  readonly results: Finished[] = [];
  readonly runs: SucceededRun[] = [];
  readonly starts: { ref: string; ageMs: number }[] = [];
  readonly retractions: { dropped: TaskRefs; kept: TaskRefs }[] = [];

  async finished({ items, runs }: FinishedBatch): Promise<void> {
    this.results.push(...items);
    this.runs.push(...runs);
  }

  started(items: { job: number; index: number; generation: number; ageMs: number }[]): void {
    this.starts.push(...items.map((item) => ({ ref: refText(item), ageMs: item.ageMs })));
  }

  retracted(dropped: TaskRefs, kept: TaskRefs): void {
    this.retractions.push({ dropped, kept });
  }
}

/** Lets everything happen that waits for nothing but its turn. */
export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export interface MadeWork {
  slots?: number;
  journal?: MemoryJournal;
  keepForMs?: number;
  spoolDir?: string;
}

/** A lease is held from the start; the test ends it by letting time pass. */
export function makeWork(t: Test, options: number | MadeWork = {}) {
  const made: MadeWork = typeof options === 'number' ? { slots: options } : options;
  const { slots = 1, journal = new MemoryJournal(), keepForMs = 3_600_000, spoolDir = t.testdir() } = made;
  const clock = new ManualClock();
  const boot = { sleptMs: 0 };
  const executor = new FakeExecutor();
  const outbox = new Outbox({ clock, journal, log: silentLogger });
  const ledger = new Ledger({ slots, cpuMillis: slots * 1000, memoryBytes: 1000, gpus: 0, custom: {} });
  const logs = new LogStreamer(() => undefined, clock, silentLogger);
  const lease = new LeaseClock(15_000);
  const time = new SteadyTime(clock, () => clock.monotonicMs() + boot.sleptMs);
  const fence = new Fence({ lease, time, keepForMs, clock, log: silentLogger });
  lease.sent(0, time.now());
  lease.answered(0, time.now());
  const executors = new Map([['process', executor]]);
  const work = new Work({ ledger, executors, outbox, logs, fence, spoolDir, clock, log: silentLogger });
  return { clock, executor, outbox, journal, ledger, logs, work, lease, time, fence, boot };
}

/** A welcome that wants everything as it is, but for these. */
export const reconciled = (
  superseded: TaskRefs = refsOf(),
  readopted?: Reconciliation['readopted'],
): Reconciliation => ({
  superseded,
  readopted,
});
