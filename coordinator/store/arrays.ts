import { type RawBuilder, sql } from 'kysely';

/**
 * Array parameters as PostgreSQL array literals. The driver would serialise arrays too, but quotes every number, refuses
 * `bytea[]` and looks at the first element for the type; a literal with a cast has none of these surprises and is several
 * times quicker for a thousand rows.
 *
 * A column in which nothing is defined becomes `{}`: `unnest` of several arrays pads the shorter ones with nulls.
 */
type Pick<T, V> = (item: T) => V | undefined;

const NONE = '{}';

function numbers<T>(items: readonly T[], pick: Pick<T, number>): string {
  let literal = '';
  let some = false;
  for (const item of items) {
    const value = pick(item);
    if (value === undefined) literal += literal === '' ? 'NULL' : ',NULL';
    else {
      some = true;
      literal += literal === '' ? `${value}` : `,${value}`;
    }
  }
  return some ? `{${literal}}` : NONE;
}

const SPECIAL = /["\\\0]/;

/** PostgreSQL text holds no NUL; one in a task's error message must not spoil the batch it travels in. */
const quoted = (text: string): string =>
  SPECIAL.test(text) ? `"${text.replaceAll('\0', '').replace(/["\\]/g, '\\$&')}"` : `"${text}"`;

function strings<T>(items: readonly T[], pick: Pick<T, string>): string {
  let some = false;
  const literal = items.map((item) => {
    const value = pick(item);
    some ||= value !== undefined;
    return value === undefined ? 'NULL' : quoted(value);
  });
  return some ? `{${literal.join(',')}}` : NONE;
}

/** As the driver wants it: literals, such as all of ours, pass. */
export const textArrayLiteral = (values: readonly string[] | string): string =>
  typeof values === 'string' ? values : strings(values, (value) => value);

export const numberArrayLiteral = (values: readonly number[] | string): string =>
  typeof values === 'string' ? values : numbers(values, (value) => value);

/** `{1,NULL,3}` as PostgreSQL writes it, one dimension. */
export const parseNumberArray = (literal: string): (number | null)[] =>
  literal === NONE
    ? []
    : literal
        .slice(1, -1)
        .split(',')
        .map((word) => (word === 'NULL' ? null : Number(word)));

/** `{a,"b, \\"c\\"",NULL}` as PostgreSQL writes it, one dimension. */
export function parseTextArray(literal: string): (string | null)[] {
  const element = /"((?:[^"\\]|\\.)*)"|([^,{}"]+)/gsy;
  const values: (string | null)[] = [];
  for (element.lastIndex = 1; ; element.lastIndex++) {
    const match = element.exec(literal);
    if (!match) return values;
    const [, inQuotes, plain] = match;
    values.push(
      inQuotes !== undefined ? inQuotes.replace(/\\(.)/gs, '$1') : plain === 'NULL' ? null : (plain as string),
    );
  }
}

export const ints = <T>(items: readonly T[], pick: Pick<T, number>): RawBuilder<number[]> =>
  sql`${numbers(items, pick)}::integer[]`;

export const bigints = <T>(items: readonly T[], pick: Pick<T, number>): RawBuilder<number[]> =>
  sql`${numbers(items, pick)}::bigint[]`;

export const doubles = <T>(items: readonly T[], pick: Pick<T, number>): RawBuilder<number[]> =>
  sql`${numbers(items, pick)}::double precision[]`;

export const booleans = <T>(items: readonly T[], pick: (item: T) => boolean): RawBuilder<boolean[]> =>
  sql`${`{${items.map((item) => (pick(item) ? 't' : 'f')).join(',')}}`}::boolean[]`;

export const texts = <T>(items: readonly T[], pick: Pick<T, string>): RawBuilder<string[]> =>
  sql`${strings(items, pick)}::text[]`;

/** A single one, as it would stand in an array. */
export const text = (value: string | undefined): RawBuilder<string | null> =>
  sql`${value?.replaceAll('\0', '') ?? null}::text`;

/** Bytes travel as base64 in `text[]`; the statement decodes them. */
export const base64s = <T>(items: readonly T[], pick: Pick<T, Uint8Array>): RawBuilder<string[]> =>
  texts(items, (item) => base64(pick(item)));

export const base64 = (bytes: Uint8Array | undefined): string | undefined =>
  bytes && Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');

const AGE_MS_MAX = 10 * 365 * 86_400_000;

/** Durations come from other machines; a wild one is bounded to ten years so that no date leaves PostgreSQL's range. */
export const boundedMs = (ms: number): number => Math.min(Math.max(0, Number.isFinite(ms) ? ms : 0), AGE_MS_MAX);

const RUN_US_MAX = AGE_MS_MAX * 1000;

/** A count or a duration in microseconds from another machine: a whole number that every column and sum can hold. */
export const whole = (value: number | undefined): number | undefined =>
  value === undefined || !Number.isFinite(value) ? undefined : Math.trunc(Math.min(Math.max(0, value), RUN_US_MAX));
