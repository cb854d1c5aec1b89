import { randomBytes } from 'node:crypto';

const CROCKFORD = '0123456789abcdefghjkmnpqrstvwxyz';

const TAIL_BYTES = 5;
/** Drawn from the system at once: asking it for five bytes costs more than all the rest of an id. */
const POOL_BYTES = 256 * TAIL_BYTES;
let pool = Buffer.alloc(0);

function tailBytes(): Uint8Array {
  if (pool.length === 0) pool = randomBytes(POOL_BYTES);
  const bytes = pool.subarray(0, TAIL_BYTES);
  pool = pool.subarray(TAIL_BYTES);
  return bytes;
}

/**
 * A job or node identifier: 9 characters of time, 7 of randomness, Crockford base 32, lower case. Ids sort by the time
 * they were made and hold no look-alike letters, so they can be read aloud and typed. They are no secrets.
 */
export function makeId(nowMs: number, random: Uint8Array = tailBytes()): string {
  let time = '';
  for (let rest = Math.floor(nowMs), i = 0; i < 9; i++, rest = Math.floor(rest / 32))
    time = CROCKFORD[rest % 32] + time;
  let tail = '';
  // Forty bits, which a number holds exactly.
  let bits = random.reduce((sum, byte) => sum * 256 + byte, 0);
  for (let i = 0; i < 7; i++, bits = Math.floor(bits / 32)) tail += CROCKFORD[bits % 32];
  return time + tail;
}

/** Characters of the same alphabet, 5 random bits each. */
export const randomCharacters = (count: number): string =>
  Array.from(randomBytes(count), (byte) => CROCKFORD[byte % 32]).join('');

export const ID_PATTERN = /^[0-9a-hjkmnp-tv-z]{16}$/;

/** The only names there are: nodes, users, coordinators. Lower case, digits and hyphens; 1 to 63 characters. */
export const NAME_PATTERN = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

export const isName = (text: string): boolean => NAME_PATTERN.test(text);

/** The nearest valid name to a host name such as `Anna's MacBook.local`; `fallback` when nothing is left of it. */
export function nameFrom(text: string, fallback: string): string {
  const name = (text.split('.')[0] ?? '')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 60)
    .replace(/^-+|-+$/g, '');
  return isName(name) ? name : fallback;
}
