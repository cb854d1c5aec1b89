import { MeshError } from '../../common/errors.js';
import { parseDuration } from '../../common/units.js';

/** A moment: so long ago (`2h`), or a date as ISO 8601 writes it. Milliseconds since 1970. */
export function parseMoment(text: string, nowMs: number): number {
  if (/^\d+(?:\.\d+)?[a-z]+$/.test(text)) return nowMs - parseDuration(text);
  const ms = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(ms))
    throw new MeshError('USAGE', `"${text.slice(0, 40)}" is no moment`, {
      hint: 'write how long ago, like 2h or 3d, or a date like 2026-11-28T08:00Z',
    });
  return ms;
}
