/**
 * One session with one coordinator, from hello to its end. Heartbeats go out on the coordinator's rhythm; when several
 * in a row are not answered the session is given up, long before the lease is over, so that there is time to reconnect.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { freemem } from 'node:os';
import type { Clock, Timer } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { fromServiceError } from '../../common/grpc-errors.js';
import type { Logger } from '../../common/log.js';
import type {
  AgentHello,
  AgentServiceClient,
  Finished,
  HeartbeatReply,
  SessionRequest,
  SessionResponse,
  Started,
  TaskRefs,
  Welcome,
} from '../../proto/gen/mesh/v1/agent.js';
import type { LeaseClock } from '../core/lease.js';
import type { LoadMeter } from './load.js';
import type { Upstream, Work } from './work.js';

const WELCOME_MS = 10_000;
const UNANSWERED_MAX = 3;

export interface SessionOptions {
  client: AgentServiceClient;
  hello: AgentHello;
  work: Work;
  lease: LeaseClock;
  load: LoadMeter;
  clock: Clock;
  log: Logger;
  /** The highest epoch this agent obeyed; commands of a lower one are refused. */
  epoch: () => number;
  onEpoch: (epoch: number) => void;
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

  constructor(options: SessionOptions) {
    this.#options = options;
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

  /** Says hello. @throws MeshError with the coordinator's reason when it does not welcome this agent */
  async open(): Promise<Welcome> {
    const { clock, hello } = this.#options;
    const welcomed = new Promise<Welcome>((resolve) => (this.#welcome = resolve));
    const timer = clock.after(WELCOME_MS, () =>
      this.#finish(new MeshError('TIMED_OUT', 'the coordinator did not answer the hello')),
    );
    this.#write({ $case: 'hello', value: hello });
    const first = await Promise.race([welcomed, this.#ended]);
    timer.cancel();
    if (first instanceof MeshError) throw first;
    this.#options.onEpoch(first.epoch);
    return first;
  }

  /** Hears what follows the welcome. Until then it waits, so that nothing comes before its reader is ready. */
  listen(): void {
    this.#stream.resume();
  }

  /** Beats until the session ends. */
  beat(everyMs: number): void {
    const { clock, work, load, lease } = this.#options;
    if (this.#over) return;
    if (this.#sequence - this.#answered >= UNANSWERED_MAX)
      return this.#finish(new MeshError('UNREACHABLE', `${UNANSWERED_MAX} heartbeats in a row were not answered`));
    const nowMs = clock.monotonicMs();
    const sequence = ++this.#sequence;
    lease.sent(sequence, nowMs);
    this.#write({
      $case: 'heartbeat',
      value: {
        sequence,
        load: load.measure(),
        running: work.running,
        queued: work.queued,
        memoryFreeBytes: freemem(),
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

  async finished(items: Finished[]): Promise<void> {
    if (this.#write({ $case: 'finished', value: { items } }) || this.#over) return;
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
    return this.#over ? false : this.#stream.write({ body });
  }

  #receive({ body }: SessionResponse): void {
    const { work, log } = this.#options;
    switch (body?.$case) {
      case 'welcome':
        this.#stream.pause();
        return this.#welcome?.(body.value);
      case 'heartbeatReply':
        return this.#reply(body.value);
      case 'assign':
        if (body.value.epoch < this.#options.epoch())
          return log.warn({ event: 'assign.stale-epoch', epoch: body.value.epoch }, 'a former leader gave work');
        this.#options.onEpoch(body.value.epoch);
        return work.assign(body.value);
      case 'retract':
        return work.retract(body.value);
      case 'cancel':
        return work.cancel(body.value);
      case 'finishedAck':
        return work.acknowledged(body.value);
      case 'goodbye':
        return this.#finish(new MeshError('UNREACHABLE', `the coordinator said goodbye: ${body.value.reason}`));
    }
  }

  #reply({ sequence, pingUs, epoch }: HeartbeatReply): void {
    const { clock, lease, onEpoch } = this.#options;
    const nowMs = clock.monotonicMs();
    this.#ping = { us: pingUs, atMs: nowMs };
    this.#answered = Math.max(this.#answered, sequence);
    lease.answered(sequence, nowMs);
    onEpoch(epoch);
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
