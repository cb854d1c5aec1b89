import type { Clock } from '../../common/clock.js';
import type { TokenBucket } from '../../common/token-bucket.js';

/**
 * Holds a stream back for as many reasons as there are at a time: it flows again when the last one is gone. What is not
 * read stays in the window of HTTP/2 and then with the sender, so nothing piles up here.
 */
export class Valve {
  #holds = 0;

  constructor(
    private readonly stream: { pause(): unknown; resume(): unknown },
    private readonly clock: Clock,
  ) {}

  /** Returns what ends this hold; calling it again does nothing. */
  hold(): () => void {
    if (this.#holds++ === 0) this.stream.pause();
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      if (--this.#holds === 0) this.stream.resume();
    };
  }

  /** These were read: the stream waits until its rate allows more. */
  spend(bucket: TokenBucket, tokens: number): void {
    const waitMs = bucket.spend(tokens, this.clock.monotonicMs());
    if (waitMs > 0) this.clock.after(waitMs, this.hold(), { background: true });
  }
}
