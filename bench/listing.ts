/** How long a page of a job's tasks takes, at every position that could be slow, asked as people ask: over the wire. */
import { pause, systemClock } from '../common/clock.js';
import type { BenchMesh } from './mesh-side.js';

interface Position {
  name: string;
  status: string;
  cursor: string;
}

/** First, middle and last page, and the first one of each state. */
export const positionsOf = (tasks: number): Position[] => [
  { name: 'first page', status: '', cursor: '' },
  { name: 'middle page', status: '', cursor: String(Math.floor(tasks / 2)) },
  { name: 'last page', status: '', cursor: String(Math.max(0, tasks - 100)) },
  ...['QUEUED', 'ASSIGNED', 'RUNNING', 'RETRYING', 'COMPLETED', 'FAILED', 'CANCELLED'].map((status) => ({
    name: `first page of ${status}`,
    status,
    cursor: '',
  })),
];

/** Milliseconds of each call, by position. */
export type Listing = Map<string, number[]>;

/** Asks for each position in turn, `rounds` times or until aborted; a little apart, as people are. */
export async function listPages(
  { connection }: BenchMesh,
  job: string,
  tasks: number,
  rounds: number,
  over?: AbortSignal,
): Promise<Listing> {
  const listing: Listing = new Map();
  for (let round = 0; round < rounds && !over?.aborted; round++) {
    for (const { name, status, cursor } of positionsOf(tasks)) {
      const fromMs = systemClock.monotonicMs();
      await connection.mesh.listTasks({ job, status, cursor, limit: 100 });
      const tookMs = systemClock.monotonicMs() - fromMs;
      listing.set(name, [...(listing.get(name) ?? []), tookMs]);
      await pause(systemClock, 10, over);
    }
  }
  return listing;
}
