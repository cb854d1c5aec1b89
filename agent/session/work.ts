/**
 * Between the session and the executors: takes assignments into the ledger, starts what fits, follows what runs, and
 * turns ends into results. What runs goes on while no coordinator is there; results wait in the outbox.
 */
import { join } from 'node:path';
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { RecentSet, SESSION_BODIES_MAX } from '../../common/recent-set.js';
import {
  type Assign,
  type JobBody,
  Outcome,
  type SucceededRun,
  type TaskRefs,
  type TaskRuns,
} from '../../proto/gen/mesh/v1/agent.js';
import type { Attempt, Launch } from '../core/attempt.js';
import { type FenceLevel, type Ledger, stopsAlone } from '../core/ledger.js';
import { maskedObserver } from '../core/masked-launch.js';
import { addRef, emptyRefs } from '../core/refs.js';
import { type AttemptEnd, type Executor, type LaunchObserver, type StopReason, successOf } from '../core/types.js';
import { OutputSpool } from '../output/spool.js';
import type { Fence, Fenced } from './fence.js';
import type { LogStreamer } from './log-streamer.js';
import type { Outbox } from './outbox.js';
import { readopt } from './readopt.js';
import { ResultSender } from './result-sender.js';
import { blank, goOn, isPlain, refsOf, resultOf } from './results.js';
import { Running, RUNNING_AFTER_MS } from './running.js';
import type { Reconciliation, Upstream, WorkReport } from './upstream.js';

/** Output up to this size travels with the result alone. */
const STREAM_OVER_BYTES = 64 * 1024;

export interface WorkOptions {
  ledger: Ledger;
  executors: ReadonlyMap<string, Executor>;
  outbox: Outbox;
  logs: LogStreamer;
  fence: Fence;
  spoolDir: string;
  clock: Clock;
  log: Logger;
}

export class Work implements Service, Fenced {
  readonly name = 'work';
  readonly #options: WorkOptions;
  readonly #running: Running;
  readonly #results: ResultSender;
  #bodies = new RecentSet<number, JobBody>(SESSION_BODIES_MAX);
  #upstream: Upstream | undefined;
  #stopping = false;
  #watching = false;
  #idle: (() => void)[] = [];
  /** Ended, with output on its way that comes before the result. */
  #finishing = 0;

  constructor(options: WorkOptions) {
    this.#options = options;
    this.#running = new Running(options.clock);
    this.#results = new ResultSender({ ...options, queued: () => options.ledger.queued });
    options.fence.around(this);
  }

  async start(): Promise<void> {}

  /** Kills what runs and waits until nothing does. */
  async stop(): Promise<void> {
    this.refuse();
    this.kill('shutdown');
    await this.idle();
    await this.#results.idle();
  }

  /** How things stand, for the heartbeat. */
  get running(): number {
    return this.#options.ledger.slotsHeld;
  }

  get queued(): number {
    return this.#options.ledger.queued;
  }

  /** Whether anything waits or runs here. */
  get occupied(): boolean {
    return !this.#options.ledger.idle;
  }

  report(): WorkReport {
    const { ledger, outbox } = this.#options;
    const report = ledger.report();
    const { running, unacknowledged } = report;
    const runningAgeMs = running.jobs.map((job, i) =>
      Math.round(this.#running.ageMs(ledger.get(job, running.indexes[i] as number))),
    );
    // Results of an earlier life of the agent are in no ledger.
    for (const result of outbox.all()) {
      for (const ref of refsOf(result)) {
        const attempt = ledger.get(ref.job, ref.index);
        if (attempt?.generation !== ref.generation || attempt.state !== 'ENDED') addRef(unacknowledged, ref);
      }
    }
    return { ...report, runningAgeMs };
  }

  /** What the job's tasks share, if this session was told. */
  bodyOf(job: number): JobBody | undefined {
    return this.#bodies.get(job);
  }

  /** A session begins: the coordinator sends bodies anew, drops what it no longer wants, and hears every result again. */
  async connected(upstream: Upstream, { superseded, readopted }: Reconciliation): Promise<void> {
    const { ledger, outbox } = this.#options;
    this.#bodies = new RecentSet(SESSION_BODIES_MAX);
    ledger.forgetIdleBodies();
    for (const finished of readopt(this.#options, readopted)) this.#results.pass(finished);
    for (const attempt of ledger.discard(superseded)) this.#running.stop(attempt, 'cancelled');
    outbox.remove(superseded);
    this.#upstream = upstream;
    await this.#results.connected(upstream);
    this.#running.noneTold();
    this.#watch();
    this.#launch();
  }

  disconnected(): void {
    this.#upstream = undefined;
    this.#results.disconnected();
  }

  fence(level: FenceLevel): void {
    this.#options.ledger.fence(level);
    if (level === 'open') return this.#launch();
    this.#running.stopAll('fenced', ({ body }) => level === 'all' || stopsAlone(body));
  }

  assign({ bodies, groups, secrets }: Assign): void {
    const { ledger } = this.#options;
    const sent = new Map(bodies.map((body) => [body.job, body]));
    for (const { job } of groups) {
      const body = this.#bodies.touch(job) ?? sent.get(job);
      if (!body) continue;
      if (sent.has(job)) this.#bodies.put(job, body);
      ledger.addBodies([body]);
    }
    const result = ledger.assign(groups);
    // Not before: a generation that makes way for the next may have been the job's last attempt here.
    for (const { job, values } of secrets) ledger.holdSecrets(job, values);
    for (const attempt of result.kill) this.#running.stop(attempt, 'cancelled');
    for (const { attempt, reason } of result.impossible) this.#finish(attempt, Outcome.NODE_FAULT, reason);
    if (result.unknownJobs.length > 0)
      this.#options.log.error({ event: 'assign.without-body', jobs: result.unknownJobs });
    if (this.#stopping) this.refuse();
    else this.#launch();
  }

  retract(refs: TaskRefs): void {
    const { dropped, kept } = this.#options.ledger.retract(refs);
    this.#upstream?.retracted(dropped, kept);
  }

  cancel(refs: TaskRefs): void {
    const { ended, kill, unknown } = this.#options.ledger.cancel(refs);
    for (const attempt of kill) this.#running.stop(attempt, 'cancelled');
    for (const attempt of ended) this.#finish(attempt, Outcome.CANCELLED, 'cancelled before it started');
    // The coordinator holds room for these until it hears of them.
    for (let i = 0; i < unknown.jobs.length; i++) {
      const [job, index, generation] = [unknown.jobs[i], unknown.indexes[i], unknown.generations[i]];
      const ref = { job: job as number, index: index as number, generation: generation as number };
      this.#results.pass(blank(ref, Outcome.CANCELLED, 'it is not here'));
    }
  }

  acknowledged(refs: TaskRefs): void {
    this.#options.outbox.remove(refs);
    this.#options.ledger.acknowledge(refs);
    this.#results.pump();
  }

  acknowledgedRuns(runs: TaskRuns): void {
    const { outbox, ledger } = this.#options;
    outbox.removeRuns(runs);
    runs.jobs.forEach((job, i) => ledger.acknowledgeRun(job, runs.firsts[i] as number, runs.counts[i] as number));
    this.#results.pump();
  }

  /** Takes no more work and gives back what has not started. */
  refuse(): void {
    this.#stopping = true;
    const { dropped } = this.#options.ledger.drain();
    if (dropped.jobs.length > 0) this.#upstream?.retracted(dropped, emptyRefs());
  }

  get refuses(): boolean {
    return this.#stopping;
  }

  kill(reason: StopReason): void {
    this.#running.stopAll(reason);
  }

  /** Resolves when nothing runs and every result is on its way. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#idle.push(resolve);
      this.#checkIdle();
    });
  }

  #checkIdle(): void {
    if (this.#running.idle && this.#finishing === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  #launch(): void {
    const { ledger, executors, fence } = this.#options;
    if (this.#stopping) return;
    fence.watch();
    // A process that stood still, or a machine that slept, may have outlived its lease since anybody looked.
    if (fence.level === 'open' && ledger.holdsStopping) fence.check();
    const executorOf = (body: JobBody) => executors.get(body.work?.$case ?? '');
    for (let refused = true; refused; ) {
      refused = false;
      for (const launch of ledger.launch((body, share) => executorOf(body)?.launchMax(body, share) ?? 1)) {
        const executor = executorOf(launch.body);
        refused ||= !executor;
        if (executor) this.#begin(executor, launch);
        else for (const attempt of launch.attempts) this.#refuseKind(attempt);
      }
    }
  }

  #refuseKind(attempt: Attempt): void {
    if (this.#options.ledger.ended(attempt)) this.#finish(attempt, Outcome.NODE_FAULT, 'this node runs no such work');
  }

  #begin(executor: Executor, launch: Launch): void {
    const { ledger } = this.#options;
    const attempts = launch.attempts;
    const at = (position: number) => attempts[position] as Attempt;
    const observer: LaunchObserver = {
      started: (position, ageMs) => this.#started(at(position), ageMs),
      output: (position) => this.#output(at(position)),
      ended: (position, end) => {
        this.#ended(at(position), end);
        this.#goOn(launch);
      },
      succeeded: (positions, resultsJson, runUs, exitCode) => {
        this.#succeeded(positions.map(at), resultsJson, runUs, exitCode);
        this.#goOn(launch);
      },
      returned: (positions) => {
        for (const position of positions) this.#running.forget(at(position));
        ledger.returned(positions.map(at));
        this.#goOn(launch);
      },
    };
    const { secrets } = launch;
    this.#running.begun(launch, executor.start(launch, secrets ? maskedObserver(observer, secrets.mask) : observer));
  }

  /** Some of it has ended: what waited for its room begins. */
  #goOn(launch: Launch): void {
    this.#running.ended(launch);
    this.#launch();
    this.#results.weigh();
    this.#checkIdle();
  }

  #started(attempt: Attempt, ageMs: number): void {
    this.#options.ledger.started(attempt);
    this.#running.started(attempt, ageMs);
    this.#watch();
  }

  #output(attempt: Attempt): OutputSpool {
    const { spoolDir, clock, logs } = this.#options;
    const path = join(spoolDir, `${attempt.job}.${attempt.index}.${attempt.generation}.out`);
    const spool = new OutputSpool({ path, clock, limitBytes: attempt.body.logBytesMax });
    this.#running.prints(attempt, spool);
    const forget = spool.onData(() => {
      if (spool.totalBytes <= STREAM_OVER_BYTES) return;
      forget();
      logs.follow(attempt, spool);
    });
    return spool;
  }

  #ended(attempt: Attempt, end: AttemptEnd): void {
    const { ledger, logs } = this.#options;
    const spool = this.#running.spoolOf(attempt);
    this.#running.forget(attempt);
    const wanted = ledger.ended(attempt);
    spool?.end();
    if (!wanted) void this.#discard(attempt, spool);
    else if (spool && logs.follows(spool)) void this.#finishStreamed(attempt, end, spool);
    else this.#report(attempt, end, spool);
  }

  /** What is plain of it travels in runs. */
  #succeeded(
    attempts: readonly Attempt[],
    resultsJson: readonly string[],
    runUs: readonly number[],
    exitCode: number | undefined,
  ): void {
    const { ledger } = this.#options;
    let run: SucceededRun | undefined;
    attempts.forEach((attempt, i) => {
      const [resultJson, tookUs] = [resultsJson[i] as string, runUs[i] as number];
      if (!isPlain(attempt, resultJson, tookUs) || this.#running.spoolOf(attempt))
        return this.#ended(attempt, successOf(resultJson, tookUs, exitCode));
      this.#running.forget(attempt);
      if (!ledger.ended(attempt)) return;
      const next = goOn(run, attempt, resultJson, tookUs, exitCode);
      if (run && run !== next) this.#results.sendRun(run);
      run = next;
    });
    if (run) this.#results.sendRun(run);
  }

  /**
   * A follower sees the output in order: what was streamed is stored before the result that ends it. The result is kept
   * at once all the same, so that it survives the agent.
   */
  async #finishStreamed(attempt: Attempt, end: AttemptEnd, spool: OutputSpool): Promise<void> {
    const { logs, outbox } = this.#options;
    this.#finishing++;
    await spool.settled();
    // At every wait it may have been superseded, and its generation may have changed.
    if (attempt.state === 'ENDED') {
      const finished = resultOf(attempt, end, spool);
      outbox.add(finished, true);
      this.#results.pass(finished);
      await logs.drained(spool);
      const ready = attempt.state === 'ENDED' ? outbox.ready(attempt) : undefined;
      if (ready) this.#results.pass(ready);
    }
    void this.#discard(attempt, spool);
    this.#finishing--;
    this.#checkIdle();
  }

  async #discard(attempt: Attempt, spool: OutputSpool | undefined): Promise<void> {
    if (!spool) return;
    this.#options.logs.unfollow(spool);
    await spool.dispose().catch((err: unknown) => this.#options.log.warn({ event: 'output.not-removed', err }));
    this.#options.log.debug({ event: 'attempt.discarded', job: attempt.job, index: attempt.index });
  }

  #report(attempt: Attempt, end: AttemptEnd, spool: OutputSpool | undefined): void {
    this.#results.send(resultOf(attempt, end, spool));
    if (spool) void this.#discard(attempt, spool);
  }

  #finish(attempt: Attempt, outcome: Outcome, error: string): void {
    this.#results.send(blank(attempt, outcome, error));
  }

  /** Looks, while anything runs, for attempts that are old enough to be told of and to have their output followed. */
  #watch(): void {
    if (this.#watching) return;
    this.#watching = true;
    this.#options.clock.after(
      RUNNING_AFTER_MS,
      () => {
        this.#watching = false;
        this.#tellRunning();
        if (!this.#running.idle) this.#watch();
      },
      { background: true },
    );
  }

  #tellRunning(): void {
    const { logs } = this.#options;
    const items = this.#running.tell(this.#upstream !== undefined, (attempt, spool) => logs.follow(attempt, spool));
    if (items.length > 0) this.#upstream?.started(items);
  }
}
