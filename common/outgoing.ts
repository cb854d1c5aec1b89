import type { Writable } from 'node:stream';

/** Of one stream: two messages of the largest kind, or eight pieces of a file. */
export const OUTGOING_BYTES_MAX = 512 * 1024;

/**
 * What waits to be sent on a stream of gRPC, which takes sixteen messages, however large they are, before it asks to wait.
 * Here it is bounded by bytes too: for whoever reads slowly so much is held, and not sixteen times as much.
 */
export class Outgoing<Message> {
  #bytes = 0;
  readonly #waiting = new Set<() => void>();

  constructor(private readonly stream: Pick<Writable, 'write' | 'on' | 'writableNeedDrain'>) {
    stream.on('drain', () => this.#tellRoom());
  }

  get full(): boolean {
    return this.#bytes >= OUTGOING_BYTES_MAX || this.stream.writableNeedDrain;
  }

  /** Takes it even when it is full: that is for the caller to see, before or after. */
  write(message: Message, bytes: number): void {
    this.#bytes += bytes;
    this.stream.write(message, () => {
      this.#bytes -= bytes;
      this.#tellRoom();
    });
  }

  /**
   * Resolves when half of it has gone, so that not every piece wakes somebody; others may have been first, and it may be full
   * again. Also when nobody is there any more to take anything.
   */
  room(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve));
  }

  /** The stream has ended: nobody waits for it. */
  release(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }

  #tellRoom(): void {
    if (this.#bytes <= OUTGOING_BYTES_MAX / 2 && !this.stream.writableNeedDrain) this.release();
  }
}
