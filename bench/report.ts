/** What a bench measured, and how it is written: JSON for programs, a table in bench/README.md for people. */
import { readFileSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { packageRoot, packageVersion } from '../common/package.js';
import { type Aim, judge, rowOf } from './aims.js';
import { median } from './statistics.js';

export interface Row {
  what: string;
  /** Empty where the values are plain ratios. */
  unit: string;
  /** One value for each run, in the order they were taken; at least one. */
  values: number[];
  /** How many tasks a run had, where that matters. */
  tasks?: number;
  /** What the row should reach; judged by its median. */
  aims?: Aim[];
}

export interface Result {
  name: string;
  title: string;
  rows: Row[];
  /** The row that the others are compared with; absent where there is nothing to compare. */
  base?: string;
  /** Versions of what was compared, by name: PostgreSQL, npm packages, system programs. */
  versions?: Record<string, string>;
  /** Per side, what a person could set and how it was set. */
  config: Record<string, Record<string, string>>;
  notes: string[];
}

export interface Circumstances {
  at: string;
  version: string;
  node: string;
  machine: string;
  memoryGiB: number;
  smoke: boolean;
}

export function circumstances(smoke: boolean): Circumstances {
  const processors = cpus();
  return {
    at: new Date().toISOString(),
    version: packageVersion,
    node: process.version,
    machine: `${platform()} ${release()} ${arch()}, ${processors.length} × ${processors[0]?.model.trim() ?? 'CPU'}`,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    smoke,
  };
}

/** The installed version of an npm package that is compared. */
export function installedVersion(name: string): string {
  const manifest = readFileSync(join(packageRoot, 'node_modules', name, 'package.json'), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

export const formatNumber = (value: number): string =>
  Math.abs(value) >= 100 || Number.isInteger(value)
    ? Math.round(value).toLocaleString('en-US').replaceAll(',', ' ')
    : value.toFixed(value >= 10 ? 1 : 2);

/** The aims of a row; whether they were met is said only of numbers that mean something. */
function formatAims(result: Result, row: Row, smoke: boolean): string {
  const each = (row.aims ?? []).map((aim) => {
    const { text, reached, met } = judge(result, row, aim);
    if (smoke) return text;
    // The median and the ratio to the base have columns of their own.
    const shown = aim.of === undefined || aim.of === result.base ? '' : ` (${formatNumber(reached)})`;
    return `${text}${shown}: ${met ? 'met' : '**missed**'}`;
  });
  return each.join('; ');
}

/** A Markdown table: the median, the smallest and the largest value, the ratio to the base row, and the aims. */
export function formatTable(result: Result, smoke = false): string {
  const { rows, base } = result;
  const baseRow = base === undefined ? undefined : rowOf(result, base);
  const withTasks = rows.some(({ tasks }) => tasks !== undefined);
  const withAims = rows.some(({ aims }) => aims !== undefined);
  const head = [
    '',
    ...(withTasks ? ['tasks a run'] : []),
    'runs',
    'median',
    'min … max',
    ...(baseRow ? [`× ${baseRow.what}`] : []),
    ...(withAims ? ['aim'] : []),
  ];
  const body = rows.map((row) => [
    row.what,
    ...(withTasks ? [row.tasks === undefined ? '' : formatNumber(row.tasks)] : []),
    String(row.values.length),
    `${formatNumber(median(row.values))} ${row.unit}`.trimEnd(),
    `${formatNumber(Math.min(...row.values))} … ${formatNumber(Math.max(...row.values))}`,
    // Milliseconds are no multiple of tasks a second.
    ...(baseRow ? [row.unit === baseRow.unit ? (median(row.values) / median(baseRow.values)).toFixed(2) : ''] : []),
    ...(withAims ? [formatAims(result, row, smoke)] : []),
  ]);
  const widths = head.map((title, column) =>
    Math.max(...[head, ...body].map((cells) => (cells[column] ?? '').length), 3, title.length),
  );
  const line = (cells: string[]): string => {
    const padded = cells.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
    );
    return `| ${padded.join(' | ')} |`;
  };
  const rule = widths.map((width, column) => (column === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  return [line(head), `| ${rule.join(' | ')} |`, ...body.map(line)].join('\n');
}

/** Everything about one bench as Markdown, as it stands in bench/README.md and on the terminal. */
export function formatResult(result: Result, around: Circumstances): string {
  const list = (settings: Record<string, string>): string =>
    Object.entries(settings)
      .map(([name, value]) => `${name} ${value}`)
      .join(' · ');
  const { versions = {} } = result;
  const where = [
    around.at.slice(0, 10),
    `planetary-mesh ${around.version}`,
    `Node.js ${around.node}`,
    ...Object.entries(versions).map(([name, version]) => `${name} ${version}`),
    around.machine,
    `${around.memoryGiB} GiB`,
  ].join(', ');
  return [
    `### ${result.title}`,
    '',
    formatTable(result, around.smoke),
    '',
    ...Object.entries(result.config).map(([side, settings]) => `- ${side}: ${list(settings)}`),
    ...result.notes.map((note) => `- ${note}`),
    `- ${where}${around.smoke ? '; a smoke run, its numbers mean nothing' : ''}`,
  ].join('\n');
}

/** The result as a program reads it: with what the table works out. */
export function toJson(result: Result, around: Circumstances): string {
  const rows = result.rows.map((row) => ({
    ...row,
    median: median(row.values),
    min: Math.min(...row.values),
    max: Math.max(...row.values),
    ...(row.aims ? { aims: row.aims.map((aim) => ({ ...aim, ...judge(result, row, aim) })) } : {}),
  }));
  return `${JSON.stringify({ ...around, ...result, rows }, null, 2)}\n`;
}
