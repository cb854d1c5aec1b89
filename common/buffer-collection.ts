/**
 * Keeps the memory of streamed output flat. Each message passes through several buffers that live for milliseconds, outside
 * V8's heap, and V8 is in no hurry to look for dead ones among them:
 *
 * - Among the young it looks when there are 32 MiB of them, a constant that no option moves. So whoever makes buffers by the
 *   megabyte says so here, and every few of them the young generation is collected, which holds little else then: about a
 *   millisecond.
 * - What is in use at two such times is old, and stays until the old generation is collected. V8 begins with that when heap
 *   and buffers together reach what it drew up the time before: 1.1 to 4 times the heap, by how fast it found itself to be
 *   then. With a heap of 28 MiB that is 8 MiB of buffers, which means several collections a second, or over 64. So the old
 *   generation too is collected here, when buffers have grown by so much, and V8 is left with room enough beyond that.
 *
 * The trade-off: `gc` and the room are switches of V8 for tests, each turned on for as long as it takes. Where there is no
 * `gc`, memory is what V8 makes of it. A collection of the old generation stops the process for as long as it takes to go
 * through what lives there, so the larger the heap the later it comes.
 */
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Of buffers that were made since the last collection. */
export const COLLECT_EVERY_BYTES = 8 * 2 ** 20;
/** By how much all buffers may have grown since the old generation was collected; or by this share of the heap, if that is more. */
export const GROWTH_BYTES_MAX = 12 * 2 ** 20;
const GROWTH_SHARE_MAX = 1 / 3;

/** What V8 is given until it begins by itself: the heap once more, and at least so much. */
const ROOM_BYTES_MIN = 32 * 2 ** 20;

export interface Collector {
  /** Of the heap, and of buffers outside of it, dead or alive. */
  used(): { heapBytes: number; bufferBytes: number };
  young(): void;
  all(): void;
}

export class BufferCollection {
  #bytes = 0;
  #collector: Collector | undefined;
  /** The least that buffers came to since the old generation was collected here. */
  #leastBytes = Number.POSITIVE_INFINITY;

  /** @param collector instead of V8, for tests */
  constructor(collector?: Collector) {
    this.#collector = collector;
  }

  /** So many bytes of buffers were made that nobody needs for long. */
  made(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes < COLLECT_EVERY_BYTES) return;
    this.#bytes = 0;
    this.#collector ??= new V8Collector();
    const { heapBytes, bufferBytes } = this.#collector.used();
    this.#leastBytes = Math.min(this.#leastBytes, bufferBytes);
    if (bufferBytes - this.#leastBytes < Math.max(GROWTH_BYTES_MAX, GROWTH_SHARE_MAX * heapBytes))
      return this.#collector.young();
    this.#collector.all();
    this.#leastBytes = Number.POSITIVE_INFINITY;
  }
}

class V8Collector implements Collector {
  readonly #collect: ((options?: { type: 'minor' }) => void) | undefined;

  constructor() {
    setFlagsFromString('--expose-gc');
    this.#collect = runInNewContext('globalThis.gc') as ((options?: { type: 'minor' }) => void) | undefined;
    setFlagsFromString('--no-expose-gc');
  }

  used(): { heapBytes: number; bufferBytes: number } {
    const { used_heap_size, external_memory } = getHeapStatistics();
    return { heapBytes: used_heap_size, bufferBytes: external_memory };
  }

  young(): void {
    this.#collect?.({ type: 'minor' });
  }

  all(): void {
    const percent = Math.ceil(Math.max(100, (100 * ROOM_BYTES_MIN) / this.used().heapBytes));
    setFlagsFromString(`--heap-growing-percent=${percent}`);
    try {
      this.#collect?.();
    } finally {
      setFlagsFromString('--heap-growing-percent=0');
    }
  }
}
