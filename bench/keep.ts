/** Where results are kept: bench/results/NAME.json, and from all of those the tables and the plot of bench/README.md. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../common/package.js';
import { plotAims } from './plot.js';
import { type Circumstances, formatResult, type Result, toJson } from './report.js';

const markers = (name: string): [string, string] => [`<!-- bench:${name} -->`, `<!-- /bench:${name} -->`];

/** Replaces what stands between the markers of a bench; without markers it is added at the end. */
export function replaceBetween(text: string, name: string, content: string): string {
  const [open, close] = markers(name);
  const from = text.indexOf(open);
  const to = text.indexOf(close);
  const block = `${open}\n${content}\n${close}`;
  if (from < 0 || to < from) return `${text.trimEnd()}\n\n${block}\n`;
  return text.slice(0, from) + block + text.slice(to + close.length);
}

/** Results that were kept, those of `order` first and in that order. */
function readResults(folder: string, order: readonly string[]): Result[] {
  const place = ({ name }: Result): number => (order.includes(name) ? order.indexOf(name) : order.length);
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .sort()
    .map((file) => JSON.parse(readFileSync(join(folder, file), 'utf8')) as Result)
    .sort((a, b) => place(a) - place(b));
}

/**
 * Keeps a result: its JSON, its table, and the plot of the aims of every result there is.
 * `order` has the names of the benches in the order of the plot.
 */
export function keepResult(result: Result, around: Circumstances, order: readonly string[]): void {
  const folder = join(packageRoot, 'bench', 'results');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, `${result.name}.json`), toJson(result, around));
  const readme = join(packageRoot, 'bench', 'README.md');
  let text = existsSync(readme) ? readFileSync(readme, 'utf8') : '# Benchmarks\n';
  text = replaceBetween(text, result.name, formatResult(result, around));
  const plot = plotAims(readResults(folder, order));
  if (plot !== undefined) {
    writeFileSync(join(folder, 'overview.svg'), plot);
    text = replaceBetween(text, 'overview', '![How far each aim is met or missed](results/overview.svg)');
  }
  writeFileSync(readme, text);
}
