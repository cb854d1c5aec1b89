/**
 * Where results are kept until the coordinator has acknowledged them, so that they outlive the process. The journal
 * knows nothing of tasks: it takes batches, says which segment each went to, and gives a segment up when as many results
 * of it were released as it holds. There are no records of acknowledgements: what comes back after a restart although it
 * was acknowledged is acknowledged again.
 */
import type { FinishedBatch } from '../../proto/gen/mesh/v1/agent.js';

/** What an earlier life left in one segment; ages count up to now. */
export interface JournalSegment extends FinishedBatch {
  segment: number;
}

/** How many results there are, those of runs counted one by one. */
export const resultsIn = ({ items, runs }: FinishedBatch): number =>
  runs.reduce((count, { runUs }) => count + runUs.length, items.length);

export interface Journal {
  /** Everything that is there and undamaged, oldest first. Once, before anything else. Never fails. */
  load(): Promise<JournalSegment[]>;
  /**
   * Resolves when the batch outlives the process, with the segment it is in; with undefined when it could not be
   * written, and then nothing of it is kept. Never rejects. One at a time.
   */
  append(batch: FinishedBatch): Promise<number | undefined>;
  /** So many results of the segment need not be kept any more; those of a run count one by one. */
  release(segment: number, count: number): void;
  /** An old segment that a few results keep alive: append them again and release them here. */
  crowded(): number | undefined;
  /** Nothing follows. What was not released stays for the next life. */
  close(): Promise<void>;
}
