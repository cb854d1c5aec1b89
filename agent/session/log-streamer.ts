/**
 * Streams the output of long or loud attempts over the bulk connection, each at the pace the coordinator acknowledges.
 * The spool holds what is not sent, within its bound; a slow or absent coordinator costs the task nothing.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import type { Clock, Timer } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Outgoing } from '../../common/outgoing.js';
import type { StreamLogsRequest, StreamLogsResponse } from '../../proto/gen/mesh/v1/agent.js';
import type { AttemptRef } from '../core/types.js';
import type { OutputSpool } from '../output/spool.js';
import type { AgentCalls } from './dialer.js';

const MESSAGE_BYTES = 256 * 1024;
/** Bytes of one attempt that were sent and not acknowledged. */
const WINDOW_BYTES = 2 * 1024 * 1024;
/** How long the end of an attempt waits without any more of its output being stored before the result is sent without it. */
const DRAIN_MS = 10_000;
/** How long it waits in all, however little is stored at a time. What the spool may hold takes so long at 55 KB/s. */
const DRAIN_MS_MAX = 300_000;
/** After a stream that broke by itself. */
const RETRY_MS = 1000;

interface Followed {
  ref: AttemptRef;
  spool: OutputSpool;
  sentOffset: number;
  storedOffset: number;
  pumping: boolean;
  again: boolean;
  /** Until when at the latest: monotonic. */
  waiting: { timer: Timer; untilMs: number; resolve: () => void }[];
  forget: () => void;
}

export class LogStreamer implements Service {
  readonly name = 'log-streamer';
  readonly #followed = new Map<OutputSpool, Followed>();
  readonly #byRef = new Map<string, Followed>();
  #stream: ClientDuplexStream<StreamLogsRequest, StreamLogsResponse> | undefined;
  #outgoing: Outgoing<StreamLogsRequest> | undefined;
  #retry: Timer | undefined;

  constructor(
    private readonly client: () => AgentCalls | undefined,
    private readonly clock: Clock,
    private readonly log: Logger,
  ) {}

  async start(): Promise<void> {}

  async stop(): Promise<void> {
    for (const spool of [...this.#followed.keys()]) this.unfollow(spool);
    this.#retry?.cancel();
    this.#stream?.end();
    this.#forgetStream();
  }

  follows(spool: OutputSpool): boolean {
    return this.#followed.has(spool);
  }

  follow({ job, index, generation }: AttemptRef, spool: OutputSpool): void {
    if (this.#followed.has(spool)) return;
    const entry: Followed = {
      ref: { job, index, generation },
      spool,
      ...{ sentOffset: 0, storedOffset: 0, pumping: false, again: false, waiting: [], forget: () => undefined },
    };
    entry.forget = spool.onData(() => this.#pump(entry));
    this.#followed.set(spool, entry);
    this.#byRef.set(keyOf(entry.ref), entry);
    this.#pump(entry);
  }

  /** The attempt goes on under another generation, and its output is stored anew under that. */
  renumber(ref: AttemptRef, generation: number): void {
    const entry = this.#byRef.get(keyOf(ref));
    if (!entry) return;
    this.#byRef.delete(keyOf(ref));
    entry.ref = { ...entry.ref, generation };
    entry.sentOffset = entry.storedOffset = 0;
    this.#byRef.set(keyOf(entry.ref), entry);
  }

  unfollow(spool: OutputSpool): void {
    const entry = this.#followed.get(spool);
    if (!entry) return;
    entry.forget();
    this.#followed.delete(spool);
    this.#byRef.delete(keyOf(entry.ref));
    release(entry);
  }

  /**
   * Resolves when all of it is stored, when nobody can take it, when nothing more was stored for a while, or when it has
   * taken so long that the result is worth more.
   */
  drained(spool: OutputSpool): Promise<void> {
    const entry = this.#followed.get(spool);
    if (!entry || entry.storedOffset >= spool.totalBytes || !this.#connected()) return Promise.resolve();
    return new Promise((resolve) => {
      const untilMs = this.clock.monotonicMs() + DRAIN_MS_MAX;
      entry.waiting.push({ timer: this.clock.after(DRAIN_MS, resolve), untilMs, resolve });
      this.#pump(entry);
    });
  }

  /** A new session: everything that was not acknowledged is sent again. */
  reconnected(): void {
    this.disconnected();
    for (const entry of this.#followed.values()) this.#pump(entry);
  }

  disconnected(): void {
    this.#retry?.cancel();
    this.#stream?.cancel();
    this.#forgetStream();
    for (const entry of this.#followed.values()) {
      entry.sentOffset = entry.storedOffset;
      release(entry);
    }
  }

  #connected(): Outgoing<StreamLogsRequest> | undefined {
    if (this.#outgoing) return this.#outgoing;
    const client = this.client();
    if (!client) return undefined;
    const stream = client.streamLogs();
    this.#stream = stream;
    stream.on('data', (response: StreamLogsResponse) => this.#stored(response));
    stream.on('error', (err: Error) => {
      this.log.debug({ event: 'logs.stream-ended', err });
      this.#broken(stream);
    });
    stream.on('end', () => this.#broken(stream));
    this.#outgoing = new Outgoing(stream);
    return this.#outgoing;
  }

  /** The session may well be there still: what was not acknowledged is sent again after a while. */
  #broken(stream: ClientDuplexStream<StreamLogsRequest, StreamLogsResponse>): void {
    if (this.#stream !== stream) return;
    this.disconnected();
    this.#retry = this.clock.after(RETRY_MS, () => {
      for (const entry of this.#followed.values()) this.#pump(entry);
    });
  }

  /** Whoever waits for it to take more looks for another. */
  #forgetStream(): void {
    this.#outgoing?.release();
    this.#stream = this.#outgoing = undefined;
  }

  #stored(response: StreamLogsResponse): void {
    const entry = this.#byRef.get(keyOf(response));
    if (!entry) return;
    if (response.storedOffset > entry.storedOffset) {
      entry.storedOffset = response.storedOffset;
      const nowMs = this.clock.monotonicMs();
      for (const wait of entry.waiting) {
        wait.timer.cancel();
        wait.timer = this.clock.after(Math.min(DRAIN_MS, wait.untilMs - nowMs), wait.resolve);
      }
    }
    if (entry.storedOffset >= entry.spool.totalBytes) release(entry);
    this.#pump(entry);
  }

  #pump(entry: Followed): void {
    entry.again = true;
    if (entry.pumping) return;
    entry.pumping = true;
    this.#send(entry)
      .catch((err: unknown) => this.log.warn({ event: 'logs.unsent', err }))
      .finally(() => {
        entry.pumping = false;
        // One that is followed no more would never be done with.
        if (entry.again && this.#followed.has(entry.spool)) this.#pump(entry);
      });
  }

  async #send(entry: Followed): Promise<void> {
    while (entry.again && this.#followed.has(entry.spool)) {
      entry.again = false;
      const outgoing = this.#connected();
      if (!outgoing || entry.sentOffset - entry.storedOffset >= WINDOW_BYTES) return;
      if (outgoing.full) {
        await outgoing.room();
        entry.again = true;
        continue;
      }
      const { chunks, nextOffset } = await entry.spool.read(entry.sentOffset, MESSAGE_BYTES);
      if (this.#outgoing !== outgoing || chunks.length === 0) continue;
      const bytes = chunks.reduce((sum, { data }) => sum + data.length, 0);
      outgoing.write({ ...entry.ref, chunks }, bytes);
      entry.sentOffset = nextOffset;
      entry.again = true;
    }
  }
}

/** Nobody waits for its output any longer. */
function release({ waiting }: Followed): void {
  for (const { timer, resolve } of waiting.splice(0)) {
    timer.cancel();
    resolve();
  }
}

const keyOf = ({ job, index, generation }: AttemptRef): string => `${job}.${index}.${generation}`;
