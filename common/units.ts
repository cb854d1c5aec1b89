import { MeshError } from './errors.js';

const DURATION_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const SIZE_BYTES: Record<string, number> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** `500ms`, `30s`, `5m`, `2h`, `1d`, to milliseconds. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text.trim());
  if (!match)
    throw new MeshError('USAGE', `"${text}" is not a duration`, { hint: 'write it like 500ms, 30s, 5m, 2h, 1d' });
  return bounded(text, Number(match[1]) * (DURATION_MS[match[2] as string] as number));
}

/** Beyond it whole numbers lie: 285,000 years, 8 PiB. */
function bounded(text: string, value: number): number {
  if (value <= Number.MAX_SAFE_INTEGER) return Math.round(value);
  throw new MeshError('USAGE', `"${text.slice(0, 40)}" is out of all proportion`, { hint: 'write something smaller' });
}

/** `64KiB`, `512MiB`, `2GiB`, also KB, MB, GB and plain bytes, to bytes. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)?$/.exec(text.trim());
  if (!match) throw new MeshError('USAGE', `"${text}" is not a size`, { hint: 'write it like 64KiB, 512MiB, 2GiB' });
  return bounded(text, Number(match[1]) * (SIZE_BYTES[match[2] ?? 'B'] as number));
}

export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const totalS = Math.round(ms / 1000);
  const [h, m, s] = [Math.floor(totalS / 3600), Math.floor((totalS % 3600) / 60), totalS % 60];
  return h > 0 ? `${h} h ${m} min` : `${m} min ${s} s`;
}

export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
