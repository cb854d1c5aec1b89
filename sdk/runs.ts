/**
 * Small jobs over one stream. Whoever runs one small job after the other pays for a call once and then for messages: from
 * its second job on a connection keeps such a stream, until none was run for a while. What would bring more than a few
 * results goes by a call of its own, so that a slow reader of one job holds up no other; so does everything that finds
 * the stream broken or refused, and every job where the coordinator does not know it.
 */
import type { ClientDuplexStream } from '@grpc/grpc-js';
import { type Clock, systemClock, type Timer } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { fromCallError, fromServiceError, isUnimplemented } from '../common/grpc-errors.js';
import type {
  MeshServiceService,
  RunJobRequest,
  RunJobResponse,
  RunJobsRequest,
  RunJobsResponse,
} from '../proto/gen/mesh/v1/mesh.js';
import type { Api, CallOptions } from './api.js';

type RunsApi = Pick<Api<typeof MeshServiceService>, 'runJob' | 'runJobs'>;

/** Tasks of a job that shares a stream: their results are held here until they are read. */
const TASKS_MAX = 16;
/** A stream that nobody used for so long is ended: an open one keeps a program from exiting. */
const IDLE_MS = 5000;
const NUMBER_MAX = 2 ** 32 - 1;

/** `runJob` of a connection. */
export class Runs {
  readonly #mesh: RunsApi;
  readonly #clock: Clock;
  #stream: RunStream | undefined;
  #isFirst = true;
  /** Until the coordinator says that it does not know such streams. */
  #known = true;

  constructor(mesh: RunsApi, clock: Clock = systemClock) {
    this.#mesh = mesh;
    this.#clock = clock;
  }

  async *run(request: RunJobRequest, options: CallOptions = {}): AsyncGenerator<RunJobResponse> {
    if (this.#isShared(request, options)) {
      let begun = false;
      try {
        for await (const response of this.#open().run(request)) {
          begun = true;
          yield response;
        }
        return;
      } catch (error) {
        if (begun || !(error instanceof NotHere)) throw error;
        if (isUnimplemented(error)) this.#known = false;
      }
    }
    yield* this.#mesh.runJob(request, options);
  }

  /** Ends what is under way. */
  close(): void {
    this.#stream?.cancel();
  }

  #isShared({ spec }: RunJobRequest, options: CallOptions): boolean {
    const isFirst = this.#isFirst;
    this.#isFirst = false;
    const isPlain = options.signal === undefined && options.deadlineMs === undefined;
    return this.#known && !isFirst && isPlain && (spec?.taskCount ?? 0) <= TASKS_MAX;
  }

  #open(): RunStream {
    if (!this.#stream?.isOpen) this.#stream = new RunStream(this.#mesh.runJobs(), this.#clock);
    return this.#stream;
  }
}

/** Where nothing of the call was heard it may be made another way. */
class NotHere extends MeshError {
  constructor({ code, message, hint, cause }: MeshError) {
    super(code, message, { hint, cause });
  }
}

/** What was heard of one call and not read yet. */
interface Heard {
  responses: RunJobResponse[];
  outcome: { error: MeshError | undefined } | undefined;
  wake: () => void;
}

class RunStream {
  readonly #stream: ClientDuplexStream<RunJobsRequest, RunJobsResponse>;
  readonly #calls = new Map<number, Heard>();
  #idle: Timer;
  #number = 0;
  readonly #clock: Clock;
  #usedMs: number;
  isOpen = true;

  constructor(stream: ClientDuplexStream<RunJobsRequest, RunJobsResponse>, clock: Clock) {
    this.#stream = stream;
    this.#clock = clock;
    this.#usedMs = clock.monotonicMs();
    stream.on('data', (message: RunJobsResponse) => this.#hear(message));
    stream.on('error', (error) => this.#over(fromServiceError(error)));
    stream.on('end', () => this.#over(new MeshError('UNREACHABLE', 'the coordinator ended the stream')));
    this.#idle = this.#watch();
  }

  /** @throws NotHere when the stream is over or leads to the wrong coordinator; what speaks against the job */
  async *run(request: RunJobRequest): AsyncGenerator<RunJobResponse> {
    const number = this.#next();
    const heard: Heard = { responses: [], outcome: undefined, wake: () => undefined };
    this.#calls.set(number, heard);
    this.#usedMs = this.#clock.monotonicMs();
    this.#stream.write({ number, run: request });
    try {
      for (;;) {
        const response = heard.responses.shift();
        if (response) yield response;
        else if (heard.outcome?.error) throw heard.outcome.error;
        else if (heard.outcome) return;
        else await new Promise<void>((resolve) => (heard.wake = resolve));
      }
    } finally {
      this.#calls.delete(number);
      if (!heard.outcome && this.isOpen) this.#stream.write({ number, run: undefined });
    }
  }

  cancel(): void {
    this.#over(new MeshError('INTERRUPTED', 'the connection was closed'));
    this.#stream.cancel();
  }

  #next(): number {
    do this.#number = this.#number < NUMBER_MAX ? this.#number + 1 : 1;
    while (this.#calls.has(this.#number));
    return this.#number;
  }

  #hear({ number, part }: RunJobsResponse): void {
    const heard = this.#calls.get(number);
    if (!heard || !part) return;
    if (part.$case === 'run') heard.responses.push(part.value);
    else heard.outcome = { error: part.$case === 'error' ? this.#refusal(fromCallError(part.value)) : undefined };
    heard.wake();
  }

  /** Who leads is found by a call of its own; this stream leads to somebody else. */
  #refusal(error: MeshError): MeshError {
    if (error.code !== 'NOT_LEADER') return error;
    this.isOpen = false;
    this.#stream.end();
    return new NotHere(error);
  }

  #over(reason: MeshError): void {
    this.isOpen = false;
    this.#idle.cancel();
    for (const heard of this.#calls.values()) {
      heard.outcome ??= { error: new NotHere(reason) };
      heard.wake();
    }
  }

  #watch(): Timer {
    const end = () => {
      if (this.#calls.size > 0 || this.#clock.monotonicMs() - this.#usedMs < IDLE_MS) {
        this.#idle = this.#watch();
        return;
      }
      this.isOpen = false;
      this.#stream.end();
    };
    return this.#clock.after(IDLE_MS, end, { background: true });
  }
}
