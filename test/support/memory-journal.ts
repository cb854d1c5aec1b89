/** A journal that survives whatever uses it, for as long as the test keeps it. */
import { type Journal, type JournalSegment, resultsIn } from '../../agent/output/journal.js';
import { FinishedBatch } from '../../proto/gen/mesh/v1/agent.js';

export class MemoryJournal implements Journal {
  /** Encoded, as on a disk: what is changed after it was appended is not changed here. */
  readonly #segments = new Map<number, { bytes: Uint8Array; live: number }>();
  #next = 1;
  appends = 0;
  /** The disk takes nothing while this is set. */
  full = false;
  /** The segment to vacate, if any. */
  vacate: number | undefined;

  /** How many results wait. */
  get live(): number {
    let live = 0;
    for (const segment of this.#segments.values()) live += segment.live;
    return live;
  }

  async load(): Promise<JournalSegment[]> {
    return [...this.#segments].map(([segment, { bytes }]) => {
      const batch = FinishedBatch.decode(bytes);
      this.#segments.set(segment, { bytes, live: resultsIn(batch) });
      return { segment, ...batch };
    });
  }

  async append(batch: FinishedBatch): Promise<number | undefined> {
    if (this.full) return undefined;
    this.appends++;
    const segment = this.#next++;
    const bytes = FinishedBatch.encode(batch).finish();
    this.#segments.set(segment, { bytes, live: resultsIn(batch) });
    return segment;
  }

  release(segment: number, count: number): void {
    const held = this.#segments.get(segment);
    if (held && (held.live -= count) <= 0) this.#segments.delete(segment);
  }

  crowded(): number | undefined {
    const { vacate } = this;
    this.vacate = undefined;
    return vacate;
  }

  async close(): Promise<void> {}
}
