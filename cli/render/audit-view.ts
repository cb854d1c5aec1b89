/** The audit as people read it. */
import type { AuditShape } from '../../sdk/audit.js';
import { renderTable } from './table.js';
import { safe, shorten } from './terminal.js';

const WIDTH_MAX = 60;

/** `role=agent uses=1`; lists with commas. */
function detailText(detail: unknown): string {
  if (typeof detail !== 'object' || detail === null) return String(detail);
  return Object.entries(detail)
    .map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join(' ');
}

export function auditTable(items: readonly AuditShape[]): string {
  const columns = ['SEQ', 'AT', 'ACTOR', 'FROM', 'ACTION', 'TARGET', 'DETAIL'];
  const rows = items.map(({ seq, at, actor, address, action, target, detail }) => [
    String(seq),
    at,
    ...[actor, address || '-', action, target, detailText(detail)].map((text) => shorten(safe(text), WIDTH_MAX)),
  ]);
  return renderTable(
    columns.map((title) => ({ title })),
    rows,
  );
}
