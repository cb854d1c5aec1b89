/**
 * One session with one coordinator, from hello to its end. Heartbeats go out on the coordinator's rhythm; when several
 * in a row are not answered the session is given up, long before the lease is over, so that there is time to reconnect.
 *
 * Before anything is said or heard it looks at the lease and at the time: a process that stood still for longer than its
 * lease, or a machine that slept, says nothing more in this session. What it would say is about a past that may have
 * been given away; the next hello reconciles it.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import type { Clock, Timer } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import type { Logger } from '../../common/log.js';
import type {
  AgentHello,
  FinishedBatch,
  Goodbye,
  HeartbeatReply,
  SessionRequest,
  SessionResponse,
  Started,
  SucceededRun,
  TaskRefs,
  Welcome,
} from '../../proto/gen/mesh/v1/agent.js';
import type { LeaseClock } from '../core/lease.js';
import type { AgentCalls } from './dialer.js';
import type { Fence } from './fence.js';
import type { LoadSource } from './load.js';
import type { SteadyTime } from './steady-time.js';
import type { Upstream } from './upstream.js';
import { problemWith } from './validate.js';
import type { Work } from './work.js';

/** Since which version plain results travel as runs. */
const RUNS_SINCE = 4;
/** And which has runs of commands. */
const COMMAND_RUNS_SINCE = 5;
const WELCOME_MS = 10_000;
const UNANSWERED_MAX = 3;
/** The hello is what the welcome answers; heartbeats count on from here. */
const HELLO_SEQUENCE = 0;
/** A nap this short is no reason to reconcile; the lease counts it all the same. */
const NAP_MS_MAX = 1000;

export interface SessionOptions {
  client: Pick<AgentCalls, 'session'>;
  hello: AgentHello;
  work: Work;
  lease: LeaseClock;
  time: SteadyTime;
  fence: Fence;
  load: LoadSource;
  clock: Clock;
  log: Logger;
  /** The highest epoch this agent obeyed; commands of a lower one are refused. */
  epoch: () => number;
  onEpoch: (epoch: number) => void;
  /** Where the coordinators of the mesh are, whenever the coordinator says so; the leader first in a goodbye. */
  onCoordinators: (addresses: readonly string[], source: 'list' | 'goodbye') => void;
  onRenewalWanted?: ((generation: number) => void) | undefined;
}

export class Session implements Upstream {
  readonly #options: SessionOptions;
  readonly #stream: ClientDuplexStream<SessionRequest, SessionResponse>;
  readonly #ended: Promise<MeshError>;
  #end: (reason: MeshError) => void = () => undefined;
  #welcome: ((welcome: Welcome) => void) | undefined;
  #sequence = 0;
  #answered = 0;
  #ping: { us: number; atMs: number } | undefined;
  #heartbeat: Timer | undefined;
  #over = false;
  #welcomed = false;
  #dismissed = false;
  #protocol = 0;
  #sleptMs: number;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#sleptMs = options.time.sleptMs;
    this.#ended = new Promise((resolve) => (this.#end = resolve));
    this.#stream = options.client.session();
    this.#stream.on('data', (message: SessionResponse) => this.#receive(message));
    this.#stream.on('error', (error) => this.#finish(fromServiceError(error)));
    this.#stream.on('end', () => this.#finish(new MeshError('UNREACHABLE', 'the coordinator closed the session')));
  }

  /** Resolves when the session is over, with the reason. */
  get ended(): Promise<MeshError> {
    return this.#ended;
  }

  /** The coordinator asked not to be called again soon: a person must act. */
  get dismissed(): boolean {
    return this.#dismissed;
  }

  takesRun({ exitCode }: SucceededRun): boolean {
    return this.#protocol >= (exitCode === undefined ? RUNS_SINCE : COMMAND_RUNS_SINCE);
  }

  /** Says hello. @throws MeshError with the coordinator's reason when it does not welcome this agent */
  async open(): Promise<Welcome> {
    const { clock, hello, lease, time, fence, epoch, onEpoch } = this.#options;
    const welcomed = new Promise<Welcome>((resolve) => (this.#welcome = resolve));
    const timer = clock.after(WELCOME_MS, () =>
      this.#finish(new MeshError('TIMED_OUT', 'the coordinator did not answer the hello')),
    );
    lease.sent(HELLO_SEQUENCE, time.now());
    this.#sleptMs = time.sleptMs;
    this.#stream.write({ body: { $case: 'hello', value: hello } });
    const first = await Promise.race([welcomed, this.#ended]);
    timer.cancel();
    if (first instanceof MeshError) throw first;
    if (first.epoch < epoch()) {
      this.#finish(new MeshError('UNREACHABLE', `a former leader answered (epoch ${first.epoch}, now ${epoch()})`));
      throw await this.#ended;
    }
    onEpoch(first.epoch);
    this.#protocol = first.protocol;
    lease.setLease(first.leaseMs);
    lease.answered(HELLO_SEQUENCE, time.now());
    fence.check();
    return first;
  }

  /** Hears what follows the welcome. Until then it waits, so that nothing comes before its reader is ready. */
  listen(): void {
    this.#stream.resume();
  }

  /** Beats until the session ends. */
  beat(everyMs: number): void {
    const { clock, work, load, lease, time } = this.#options;
    if (this.#over || !this.#current()) return;
    if (this.#sequence - this.#answered >= UNANSWERED_MAX)
      return this.#finish(new MeshError('UNREACHABLE', `${UNANSWERED_MAX} heartbeats in a row were not answered`));
    const nowMs = clock.monotonicMs();
    const sequence = ++this.#sequence;
    lease.sent(sequence, time.now());
    this.#write({
      $case: 'heartbeat',
      value: {
        sequence,
        load: load.measure(),
        running: work.running,
        queued: work.queued,
        memoryFreeBytes: load.memoryFreeBytes(),
        echoUs: this.#ping?.us ?? 0,
        echoHeldUs: this.#ping ? Math.round((nowMs - this.#ping.atMs) * 1000) : 0,
        stopping: work.refuses,
      },
    });
    this.#heartbeat = clock.after(everyMs, () => this.beat(everyMs));
  }

  /** One heartbeat out of turn: something changed that the coordinator should know now. */
  beatNow(everyMs: number): void {
    this.#heartbeat?.cancel();
    this.beat(everyMs);
  }

  async finished(batch: FinishedBatch): Promise<void> {
    if (this.#write({ $case: 'finished', value: batch }) || this.#over) return;
    await Promise.race([new Promise((resolve) => this.#stream.once('drain', resolve)), this.#ended]);
  }

  started(items: Started[]): void {
    this.#write({ $case: 'started', value: { items } });
  }

  retracted(dropped: TaskRefs, kept: TaskRefs): void {
    this.#write({ $case: 'retracted', value: { dropped, kept } });
  }

  /** Says goodbye and waits until the coordinator has read everything. */
  async close(): Promise<void> {
    if (this.#over) return;
    this.#heartbeat?.cancel();
    this.#stream.end();
    const timer = this.#options.clock.after(WELCOME_MS, () => this.abandon('closing took too long'));
    await this.#ended;
    timer.cancel();
  }

  abandon(reason: string): void {
    this.#finish(new MeshError('UNREACHABLE', reason));
  }

  #write(body: NonNullable<SessionRequest['body']>): boolean {
    return this.#over || !this.#current() ? false : this.#stream.write({ body });
  }

  /** Whether what is known here is still true for the coordinator; if not, the session is over. */
  #current(): boolean {
    const { fence, time } = this.#options;
    const holds = fence.check();
    if (time.sleptMs - this.#sleptMs > NAP_MS_MAX) this.abandon('the machine was asleep');
    else if (!holds) this.abandon('the lease ended without an answer');
    return !this.#over;
  }

  #receive({ body }: SessionResponse): void {
    if (this.#over || (this.#welcomed && !this.#current())) return;
    const { work } = this.#options;
    const conversation = {
      welcomed: this.#welcomed,
      sequence: this.#sequence,
      bodyOf: (job: number) => work.bodyOf(job),
    };
    const problem = problemWith(body, conversation);
    if (problem !== undefined) return this.abandon(`the coordinator ${problem}`);
    switch (body?.$case) {
      case 'welcome':
        this.#welcomed = true;
        this.#stream.pause();
        return this.#welcome?.(body.value);
      case 'heartbeatReply':
        return this.#reply(body.value);
      case 'assign':
        return this.#isFormer(body.value.epoch) ? undefined : work.assign(body.value);
      case 'retract':
        return work.retract(body.value);
      case 'cancel':
        return work.cancel(body.value);
      case 'finishedAck':
        return work.acknowledged(body.value);
      case 'finishedRunsAck':
        return work.acknowledgedRuns(body.value);
      case 'goodbye':
        return this.#goodbye(body.value);
    }
  }

  /** A leader of an epoch before one that was obeyed has nothing to say any more. */
  #isFormer(epoch: number): boolean {
    const known = this.#options.epoch();
    if (epoch < known) {
      this.#options.log.warn({ event: 'session.stale-epoch', epoch, known }, 'a former leader spoke');
      this.abandon(`a former leader spoke (epoch ${epoch}, now ${known})`);
      return true;
    }
    this.#options.onEpoch(epoch);
    return false;
  }

  #reply({ sequence, pingUs, epoch, coordinators, renew }: HeartbeatReply): void {
    const { clock, lease, time, fence, onCoordinators, onRenewalWanted } = this.#options;
    if (this.#isFormer(epoch)) return;
    this.#ping = { us: pingUs, atMs: clock.monotonicMs() };
    this.#answered = Math.max(this.#answered, sequence);
    lease.answered(sequence, time.now());
    fence.check();
    if (coordinators.length > 0) onCoordinators(coordinators, 'list');
    if (renew > 0) onRenewalWanted?.(renew);
  }

  #goodbye({ reason, permanent, coordinators }: Goodbye): void {
    this.#dismissed = permanent;
    if (coordinators.length > 0) this.#options.onCoordinators(coordinators, 'goodbye');
    this.#finish(new MeshError('UNREACHABLE', `the coordinator said goodbye: ${reason}`));
  }

  #finish(reason: MeshError): void {
    if (this.#over) return;
    this.#over = true;
    this.#heartbeat?.cancel();
    this.#options.lease.disconnected();
    this.#stream.cancel();
    this.#end(reason);
  }
}
