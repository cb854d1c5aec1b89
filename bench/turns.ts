/** Contenders take turns (A B C A B C …), so that what else the machine does in a run hits all of them alike. */
import { formatNumber, type Row } from './report.js';

export interface Contender {
  /** What its row is called, its unit, the tasks of a run and its aims. */
  row: Omit<Row, 'values'>;
  /** Compiles the code and fills the caches, unmeasured. */
  warmUp?: () => Promise<unknown>;
  /** One run; resolves to its value. */
  once: () => Promise<number>;
}

/** @returns the rows in the order of the contenders, with one value a run */
export async function takeTurns(
  contenders: readonly Contender[],
  { runs, say }: { runs: number; say: (line: string) => void },
): Promise<Row[]> {
  const measured = contenders.map(({ row, once }) => ({ once, row: { ...row, values: [] as number[] } }));
  for (const { warmUp } of contenders) await warmUp?.();
  for (let run = 1; run <= runs; run++) {
    for (const { once, row } of measured) {
      const value = await once();
      row.values.push(value);
      say(`run ${run} of ${runs}: ${row.what}: ${formatNumber(value)} ${row.unit}`);
    }
  }
  return measured.map(({ row }) => row);
}
