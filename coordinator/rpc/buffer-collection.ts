/**
 * Keeps the memory of streamed output flat. Each message passes through several buffers that live for milliseconds. V8 looks
 * for dead ones among the young when there are 32 MiB of them, a constant that no option moves, and what is in use at two
 * such times stays until the old generation is collected, at some 64 MiB more. So whoever makes buffers by the megabyte says
 * so here, and every few of them the young generation is collected, which holds little else then: about a millisecond.
 *
 * The trade-off: `gc` is a switch of V8 for tests, turned on for as long as it takes to get hold of it. Where there is none,
 * memory is what V8 makes of it.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Of buffers that were made since the last collection. */
export const COLLECT_EVERY_BYTES = 8 * 2 ** 20;

export class BufferCollection {
  #bytes = 0;
  #collect: (() => void) | undefined;

  /** @param collect instead of a collection of the young generation, for tests */
  constructor(collect?: () => void) {
    this.#collect = collect;
  }

  /** So many bytes of buffers were made that nobody needs for long. */
  made(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < COLLECT_EVERY_BYTES) return;
    this.#bytes = 0;
    this.#collect ??= findMinorCollection();
    this.#collect();
  }
}

function findMinorCollection(): () => void {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('globalThis.gc') as ((options: { type: 'minor' }) => void) | undefined;
  setFlagsFromString('--no-expose-gc');
  return () => collect?.({ type: 'minor' });
}
