/** What a bench measured, and how it is written: JSON for programs, a table in bench/README.md for people. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { packageRoot, packageVersion } from '../common/package.js';

export interface Row {
  what: string;
  unit: string;
  /** One value for each run, in the order they were taken. */
  values: number[];
  /** How many tasks a run had, where that matters. */
  tasks?: number;
  /** What is aimed at, in words: "≤ 3000". */
  target?: string;
}

export interface Result {
  name: string;
  title: string;
  rows: Row[];
  /** The row that the others are compared with; absent where there is nothing to compare. */
  base?: string;
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

/** The middle value; of an even number of values the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  const [low, high] = [sorted[Math.ceil(half) - 1], sorted[Math.floor(half)]];
  if (low === undefined || high === undefined) throw new Error('the median of nothing');
  return (low + high) / 2;
}

export const formatNumber = (value: number): string =>
  Math.abs(value) >= 100 || Number.isInteger(value)
    ? Math.round(value).toLocaleString('en-US').replaceAll(',', ' ')
    : value.toFixed(value >= 10 ? 1 : 2);

/** A Markdown table: the median, the smallest and the largest value, and the ratio to the base row. */
export function formatTable({ rows, base }: Result): string {
  const baseRow = rows.find(({ what }) => what === base);
  const withTasks = rows.some(({ tasks }) => tasks !== undefined);
  const withTarget = rows.some(({ target }) => target !== undefined);
  const head = [
    '',
    ...(withTasks ? ['tasks a run'] : []),
    'runs',
    'median',
    'min … max',
    ...(baseRow ? [`× ${baseRow.what}`] : []),
    ...(withTarget ? ['aim'] : []),
  ];
  const body = rows.map(({ what, unit, values, tasks, target }) => [
    what,
    ...(withTasks ? [tasks === undefined ? '' : formatNumber(tasks)] : []),
    String(values.length),
    `${formatNumber(median(values))} ${unit}`,
    `${formatNumber(Math.min(...values))} … ${formatNumber(Math.max(...values))}`,
    ...(baseRow ? [(median(values) / median(baseRow.values)).toFixed(2)] : []),
    ...(withTarget ? [target ?? ''] : []),
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
  const config = Object.entries(result.config).map(
    ([side, settings]) =>
      `- ${side}: ${Object.entries(settings)
        .map(([name, value]) => `${name} ${value}`)
        .join(' · ')}`,
  );
  return [
    `### ${result.title}`,
    '',
    formatTable(result),
    '',
    ...config,
    ...result.notes.map((note) => `- ${note}`),
    `- ${around.at.slice(0, 10)}, planetary-mesh ${around.version}, Node.js ${around.node}, ${around.machine}, ${around.memoryGiB} GiB${around.smoke ? '; a smoke run, its numbers mean nothing' : ''}`,
  ].join('\n');
}

export const markers = (name: string): [string, string] => [`<!-- bench:${name} -->`, `<!-- /bench:${name} -->`];

/** Replaces what stands between the markers of a bench; without markers it is added at the end. */
export function replaceBetween(text: string, name: string, content: string): string {
  const [open, close] = markers(name);
  const from = text.indexOf(open);
  const to = text.indexOf(close);
  const block = `${open}\n${content}\n${close}`;
  if (from < 0 || to < from) return `${text.trimEnd()}\n\n${block}\n`;
  return text.slice(0, from) + block + text.slice(to + close.length);
}

/** Writes `bench/results/NAME.json` and the table in `bench/README.md`. */
export function writeResult(result: Result, around: Circumstances): void {
  const folder = join(packageRoot, 'bench', 'results');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${result.name}.json`), `${JSON.stringify({ ...around, ...result }, null, 2)}\n`);
  const readme = join(packageRoot, 'bench', 'README.md');
  const text = existsSync(readme) ? readFileSync(readme, 'utf8') : '# Benchmarks\n';
  writeFileSync(readme, replaceBetween(text, result.name, formatResult(result, around)));
}
