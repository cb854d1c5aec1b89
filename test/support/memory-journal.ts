/** A journal that survives whatever uses it, for as long as the test keeps it. */
import type { Journal, JournalSegment } from '../../agent/output/journal.js';
import { type Finished, FinishedBatch } from '../../proto/gen/mesh/v1/agent.js';

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
      const { items } = FinishedBatch.decode(bytes);
      this.#segments.set(segment, { bytes, live: items.length });
      return { segment, items };
    });
  }

  async append(items: readonly Finished[]): Promise<number | undefined> {
    if (this.full) return undefined;
    this.appends++;
    const segment = this.#next++;
    const bytes = FinishedBatch.encode({ items: [...items] }).finish();
    this.#segments.set(segment, { bytes, live: items.length });
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
