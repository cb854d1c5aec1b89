import { systemClock } from '../common/clock.js';
import type { DeskCertificate } from './desk.js';
import type { Outcome } from './issue.js';

/** One JSON document, or text for people; on standard output. */
export function present(options: { json?: boolean }, document: unknown, text: () => string): void {
  process.stdout.write(options.json ? `${JSON.stringify(document)}\n` : text());
}

const iso = (ms: number): string => new Date(ms).toISOString();

export const shownCertificate = (item: DeskCertificate) => ({
  serial: item.serial,
  role: item.role,
  name: item.name,
  fingerprint: item.fingerprint,
  notBefore: iso(item.notBeforeMs),
  notAfter: iso(item.notAfterMs),
  revokedAt: item.revokedAtMs === undefined ? null : iso(item.revokedAtMs),
});

export function listText(items: readonly DeskCertificate[]): string {
  if (items.length === 0) return 'no certificates\n';
  const nowMs = systemClock.wallMs();
  const state = (item: DeskCertificate): string => {
    if (item.revokedAtMs !== undefined) return `revoked ${iso(item.revokedAtMs)}`;
    return item.notAfterMs < nowMs ? 'expired' : 'valid';
  };
  const rows = [
    ['NAME', 'ROLE', 'SERIAL', 'UNTIL', 'STATE'],
    ...items.map((item) => [item.name, item.role, item.serial, iso(item.notAfterMs), state(item)]),
  ];
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length))) ?? [];
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, i) => cell.padEnd(widths[i] ?? 0))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}

export function outcomeText(verb: string, outcome: Outcome): string {
  const files = Object.values(outcome.files).filter((path) => path !== undefined);
  return [
    `${verb} ${outcome.identity}\n`,
    `serial ${outcome.serial}, valid until ${outcome.notAfter}\n`,
    ...files.map((path: string) => `  ${path}\n`),
  ].join('');
}
