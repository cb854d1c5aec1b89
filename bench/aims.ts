/** What a row should reach, in a form that a program can judge. */
import { median } from './statistics.js';
import type { Result, Row } from './report.js';

/**
 * A bound on a row's median, in the row's unit; with `of`, on its ratio to the median of the row of that name
 * (three times as fast as theirs: `{ atLeast: 3, of: 'theirs' }`).
 */
export type Aim = ({ atLeast: number } | { atMost: number }) & { of?: string };

export interface Judgement {
  /** "≥ 3 × theirs", "≤ 150 KiB". */
  text: string;
  /** What was reached: the row's median, or its ratio. */
  reached: number;
  met: boolean;
  /** How far from the aim, above 1 on its good side: 1.2 is a fifth better than asked for. */
  margin: number;
}

/** The row of that name. @throws when the result has none: an aim that nobody can judge is a mistake of the bench */
export function rowOf(result: Result, what: string): Row {
  const found = result.rows.find((row) => row.what === what);
  if (!found) throw new Error(`the bench ${result.name} has no row ${what}`);
  return found;
}

export function judge(result: Result, row: Row, aim: Aim): Judgement {
  const own = median(row.values);
  const reached = aim.of === undefined ? own : own / median(rowOf(result, aim.of).values);
  const unit = aim.of === undefined ? (row.unit === '' ? '' : ` ${row.unit}`) : ` × ${aim.of}`;
  if ('atLeast' in aim) {
    const bound = aim.atLeast;
    return { text: `≥ ${bound}${unit}`, reached, met: reached >= bound, margin: reached / bound };
  }
  const bound = aim.atMost;
  // A growth of nothing is as good as it gets, not infinitely good.
  const margin = reached > 0 ? bound / reached : Number.POSITIVE_INFINITY;
  return { text: `≤ ${bound}${unit}`, reached, met: reached <= bound, margin };
}
