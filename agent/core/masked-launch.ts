/** Between an executor and whoever listens to it: what attempts print, return and complain of, with secrets masked. */
import type { Stream } from '../../proto/gen/mesh/v1/common.js';
import { type Mask, MASKED, MaskStream } from './mask.js';
import { type AttemptEnd, type LaunchObserver, type OutputSink, successOf } from './types.js';

export function maskedObserver(observer: LaunchObserver, mask: Mask): LaunchObserver {
  const sinks = new Map<number, MaskedSink>();
  const ended = (position: number, end: AttemptEnd): void => {
    sinks.get(position)?.end();
    sinks.delete(position);
    observer.ended(position, maskedEnd(end, mask));
  };
  return {
    started: (position, ageMs) => observer.started(position, ageMs),
    output: (position) => {
      const sink = new MaskedSink(observer.output(position), mask);
      sinks.set(position, sink);
      return sink;
    },
    ended,
    succeeded: (positions, resultsJson, runUs, exitCode) =>
      positions.forEach((position, i) =>
        ended(position, successOf(resultsJson[i] as string, runUs[i] as number, exitCode)),
      ),
    returned: (positions) => observer.returned(positions),
  };
}

/** Each stream is looked at by itself: what two of them print between each other is not one text. */
class MaskedSink implements OutputSink {
  readonly #streams = new Map<Stream, MaskStream>();

  constructor(
    private readonly sink: OutputSink,
    private readonly mask: Mask,
  ) {}

  write(stream: Stream, data: Uint8Array): boolean {
    let masked = this.#streams.get(stream);
    if (!masked) this.#streams.set(stream, (masked = new MaskStream(this.mask)));
    return this.sink.write(stream, masked.write(data));
  }

  whenDrained(resume: () => void): void {
    this.sink.whenDrained(resume);
  }

  end(): void {
    for (const [stream, masked] of this.#streams) this.sink.write(stream, masked.end());
  }
}

const maskedEnd = (end: AttemptEnd, mask: Mask): AttemptEnd => ({
  ...end,
  error: end.error && mask.text(end.error),
  resultJson: end.resultJson && maskedJson(end.resultJson, mask),
});

/** It stays JSON: texts are masked inside, and a number that is a secret becomes a text. */
export function maskedJson(json: string, mask: Mask): string {
  const masked = (value: unknown): unknown => {
    if (typeof value === 'string') return mask.text(value);
    if (typeof value === 'number') {
      const text = String(value);
      const shown = mask.text(text);
      return shown === text ? value : shown;
    }
    if (Array.isArray(value)) return value.map(masked);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [mask.text(key), masked(inner)]));
  };
  try {
    return JSON.stringify(masked(JSON.parse(json)));
  } catch {
    // Nested deeper than the stack: nobody can say what is in it.
    return JSON.stringify(MASKED);
  }
}
