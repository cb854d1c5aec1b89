/**
 * Short commands of one job, one after the other in one launch. The spawner has all of them and begins each when nothing of
 * the one before it is left, so that a command costs no message, no timer and no promise of its own; what it prints and
 * how it ended comes together with that of others.
 *
 * One that runs for a while (the spawner tells), that is to be stopped, whose output has to wait, or that left something
 * behind, is followed like any other from then on (RunningProcess), with its timeout, its memory and the killing of its tree;
 * and those behind it that have not begun go back to the queue, because they could begin elsewhere.
 */
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import type {
  AttemptEnd,
  AttemptSpec,
  LaunchObserver,
  LaunchSpec,
  NodeFault,
  OutputSink,
  RunningLaunch,
  StopReason,
} from '../core/types.js';
import type { PrivateDirectory } from './directories.js';
import { notStarted, ownEnd, stoppedEnd } from './ends.js';
import { argumentsOf, ownEnvironment, sharedEnvironment } from './environment.js';
import { type ProcessExecutorOptions, RunningProcess, type Shared } from './running-process.js';
import { type Bounds, boundsOf } from './sandbox/bounds.js';
import { ended, type ExitReport, type Hearer, refusal, type SpawnedChild } from './spawner/child.js';
import type { Report } from './spawner/frames.js';
import type { Link } from './spawner/spawner.js';
import { issueCookie } from './strays.js';

/**
 * Plain ends wait so long for those behind them, so that they go on as one: journal, message, commit and row are of as
 * many as there are. The last of a chain, and whatever is not plain, takes along those that wait.
 */
const HOLD_MS = 250;
/** Work in one chain, at most. One that takes as long by itself has the next ones of its job go alone, until shorter ones have been seen. */
export const CHAIN_MOST_US = 250_000;

export class ChainRun implements RunningLaunch {
  readonly done: Promise<void>;
  readonly #options: ProcessExecutorOptions;
  readonly #shared: Shared;
  readonly #launch: LaunchSpec;
  readonly #observer: LaunchObserver;
  readonly #measure: (count: number, totalUs: number) => void;
  readonly #bounds: Bounds;
  readonly #directory: PrivateDirectory;
  readonly #members: Member[];
  #resolve!: () => void;
  #left: number;
  #pristine = false;
  /** Positions that did not begin, until the end of the turn. */
  #returning: number[] = [];
  /** Something was left behind, so that one did not follow the other. */
  #cut = false;
  #count = 0;
  #totalUs = 0;
  /** Ended with exit code 0 and without output, and not told yet. */
  #held: number[] = [];
  #heldUs: number[] = [];
  #heldSinceMs = 0;

  /**
   * Undefined when these cannot run so: then nothing has begun.
   * @param measure hears how long they took, in microseconds
   */
  static begin(
    options: ProcessExecutorOptions,
    shared: Shared,
    launch: LaunchSpec,
    observer: LaunchObserver,
    measure: (count: number, totalUs: number) => void,
  ): ChainRun | undefined {
    if (launch.attempts.some((attempt) => attempt.input?.files.length)) return undefined;
    const chain = new ChainRun(options, shared, launch, observer, measure);
    return chain.#begin() ? chain : undefined;
  }

  private constructor(
    options: ProcessExecutorOptions,
    shared: Shared,
    launch: LaunchSpec,
    observer: LaunchObserver,
    measure: (count: number, totalUs: number) => void,
  ) {
    this.#options = options;
    this.#shared = shared;
    this.#launch = launch;
    this.#observer = observer;
    this.#measure = measure;
    const { body, attempts } = launch;
    this.#bounds = boundsOf(body.resources, body.limits, options.tiers.bounds);
    this.#directory = shared.directories.take(body.job);
    this.#members = attempts.map(
      (attempt, position) => new Member(this, position, attempt, issueCookie(options.strays, attempt)),
    );
    this.#left = attempts.length;
    this.done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  #begin(): boolean {
    const { spawner, workRoot, nodeName } = this.#options;
    const { gpus } = this.#launch;
    const { path: directory, made } = this.#directory;
    let links: Link[] | undefined;
    try {
      const environment = sharedEnvironment(this.#launch.body, { node: nodeName(), directory, gpus });
      const common = { directory, environment, user: workRoot.user, bounds: this.#bounds };
      const plans = this.#members.map(({ attempt, cookie, position }) => ({
        argv: argumentsOf(attempt),
        environment: ownEnvironment(attempt, cookie),
        directoryCare: position > 0 || made ? ('check' as const) : ('make' as const),
      }));
      links = spawner?.chain(common, plans, this.#members);
    } catch {
      // One of them cannot be given to any process; alone it will say so.
    }
    if (links) for (const member of this.#members) member.link = links[member.position] as Link;
    else {
      for (const { cookie } of this.#members) this.#options.strays.retire(cookie);
      this.#giveDirectory(made);
      this.#shared.directories.over();
    }
    return links !== undefined;
  }

  stop(position: number, reason: StopReason): void {
    const member = this.#members[position];
    if (!member || member.over) return;
    if (member.running) return member.running.stop(reason);
    // The spawner knows whether it has begun. If so it tells, and it is stopped as what runs is.
    if (member.reasons.length === 0) member.link.drop();
    member.reasons.push(reason);
  }

  /** True when nothing more is to come of it. */
  hear(member: Member, report: Report): boolean {
    if (report.kind === 'dropped') {
      this.#dropped(member);
      return true;
    }
    if (report.kind === 'pid') {
      this.#tellHeld();
      if (!member.child) this.#follow(member, report.ageMs);
      this.#othersBack(member);
    }
    if (report.kind === 'exit') {
      this.#pristine = report.directoryPristine;
      if (!member.child && report.closed) {
        const end = this.#plainEnd(member, report);
        if (end.exitCode === 0 && !member.sink) this.#hold(member, end.runUs);
        else this.#over(member, end);
        return true;
      }
      if (!member.child) this.#follow(member, report.runUs / 1000);
    }
    if (member.child) return member.child.take(report);
    if (report.kind === 'data') this.#print(member, report.stream, report.data);
    return false;
  }

  lost(member: Member, error: NodeFault): void {
    if (!member.child) this.#follow(member, 0);
    member.child?.lost(error);
  }

  #print(member: Member, stream: number, data: Buffer): void {
    if (this.#sink(member).write(stream === 0 ? Stream.STDOUT : Stream.STDERR, data)) return;
    const child = this.#follow(member, 0);
    const index = stream === 0 ? 0 : 1;
    child.pause(index);
    this.#sink(member).whenDrained(() => child.resume(index));
  }

  #sink(member: Member): OutputSink {
    member.sink ??= this.#observer.output(member.position);
    return member.sink;
  }

  #plainEnd({ attempt }: Member, report: ExitReport): AttemptEnd {
    if (report.directoryAside) {
      const suffix = ended(report).directoryAside ?? '';
      this.#options.janitor.remove(`${this.#directory.path}${suffix}`);
    }
    if (report.step) return notStarted(refusal(report), attempt);
    this.#count++;
    this.#totalUs += report.runUs;
    return ownEnd(ended(report), this.#bounds);
  }

  /** From now on as if it had been started alone. */
  #follow(member: Member, ageMs: number): SpawnedChild {
    const { position, attempt, cookie, reasons } = member;
    const child = member.link.child();
    member.child = child;
    const observer: LaunchObserver = {
      started: (_, age) => this.#observer.started(position, age),
      output: () => this.#sink(member),
      ended: (_, end) => {
        this.#count++;
        this.#totalUs += end.runUs;
        this.#over(member, end);
      },
      // A command has an exit code, so each end is told by itself.
      succeeded: () => undefined,
      returned: () => undefined,
    };
    const begun = { child, directory: this.#directory.path, cookie, ageMs };
    const running = new RunningProcess(this.#options, this.#shared, attempt, this.#launch, observer, begun);
    member.running = running;
    void running.run();
    for (const reason of reasons) running.stop(reason);
    return child;
  }

  #othersBack(member: Member): void {
    for (const other of this.#members) {
      if (other.position <= member.position || other.over || other.child || other.reasons.length > 0) continue;
      other.asked = true;
      other.link.drop();
    }
  }

  #dropped(member: Member): void {
    const [reason] = member.reasons;
    if (reason) return this.#over(member, stoppedEnd(reason));
    member.over = true;
    this.#cut ||= !member.asked;
    this.#options.strays.retire(member.cookie);
    if (this.#returning.push(member.position) > 1) return;
    queueMicrotask(() => {
      this.#tellHeld();
      const positions = this.#returning;
      this.#returning = [];
      this.#settle(positions.length, () => this.#observer.returned(positions));
    });
  }

  #hold(member: Member, runUs: number): void {
    const nowMs = this.#options.clock.monotonicMs();
    member.over = true;
    this.#options.strays.retire(member.cookie);
    if (this.#held.length === 0) this.#heldSinceMs = nowMs;
    this.#held.push(member.position);
    this.#heldUs.push(runUs);
    if (this.#held.length === this.#left || nowMs - this.#heldSinceMs >= HOLD_MS) this.#tellHeld();
  }

  #tellHeld(): void {
    const [positions, runUs] = [this.#held, this.#heldUs];
    if (positions.length === 0) return;
    [this.#held, this.#heldUs] = [[], []];
    const nothing = positions.map(() => '');
    this.#settle(positions.length, () => this.#observer.succeeded(positions, nothing, runUs, 0));
  }

  #over(member: Member, end: AttemptEnd): void {
    this.#tellHeld();
    member.over = true;
    this.#options.strays.retire(member.cookie);
    this.#settle(1, () => this.#observer.ended(member.position, end));
  }

  /** The directory is free for whatever starts on the news, and the launch ends with it. */
  #settle(count: number, tell: () => void): void {
    this.#left -= count;
    if (this.#left > 0) return tell();
    // Where they could not follow each other, they are given one by one for a while.
    if (this.#cut) this.#measure(1, CHAIN_MOST_US);
    else this.#measure(this.#count, this.#totalUs);
    this.#giveDirectory(this.#pristine);
    tell();
    this.#shared.directories.over();
    this.#resolve();
  }

  #giveDirectory(pristine: boolean): void {
    this.#shared.directories.give(this.#launch.body.job, this.#directory.path, pristine);
  }
}

/** One of them. */
class Member implements Hearer {
  link!: Link;
  sink: OutputSink | undefined;
  /** When it is followed by itself. */
  child: SpawnedChild | undefined;
  running: RunningProcess | undefined;
  /** Why it is to be ended, while nobody knows whether it has begun. */
  readonly reasons: StopReason[] = [];
  /** It was asked back. */
  asked = false;
  over = false;

  constructor(
    private readonly chain: ChainRun,
    readonly position: number,
    readonly attempt: AttemptSpec,
    readonly cookie: string,
  ) {}

  take(report: Report): boolean {
    return this.chain.hear(this, report);
  }

  lost(error: NodeFault): void {
    this.chain.lost(this, error);
  }
}
