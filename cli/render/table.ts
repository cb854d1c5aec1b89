import Table from 'cli-table3';
import { bold } from './terminal.js';

const NO_BORDERS = Object.fromEntries(
  [
    ...['top', 'top-mid', 'top-left', 'top-right', 'bottom', 'bottom-mid', 'bottom-left', 'bottom-right'],
    ...['left', 'left-mid', 'mid', 'mid-mid', 'right', 'right-mid'],
  ].map((part) => [part, '']),
);

export interface Column {
  title: string;
  /** Numbers are easier to compare at the right. */
  align?: 'left' | 'right';
}

/** Rows under a head, two spaces between the columns, no borders. Cells must be safe for a terminal already. */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const table = new Table({
    head: columns.map((column) => bold(column.title)),
    colAligns: columns.map((column) => column.align ?? 'left'),
    chars: { ...NO_BORDERS, middle: '  ' },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  table.push(...rows.map((row) => [...row]));
  return `${withoutTrailingSpace(table.toString())}\n`;
}

/** `name  value` lines. */
export function renderFields(fields: readonly (readonly [string, string])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length));
  return fields.map(([name, value]) => `${bold(name.padEnd(width))}  ${value}`.trimEnd()).join('\n') + '\n';
}

const withoutTrailingSpace = (text: string): string => text.replace(/[ \t]+$/gm, '');
