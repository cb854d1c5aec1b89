/** Waiting for what nothing signals, such as a row in another process's database: asked again and again, with an end. */
import { setTimeout as elapse } from 'node:timers/promises';

const EVERY_MS = 100;
const LIMIT_MS = 60_000;

/**
 * The first true answer of `predicate`.
 * @param what what is waited for, for the error
 */
export async function eventually<T>(
  what: string,
  predicate: () => T | Promise<T>,
  limitMs = LIMIT_MS,
): Promise<Exclude<NonNullable<T>, false>> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const answer = await predicate();
    if (answer !== false && answer !== undefined && answer !== null) return answer as Exclude<NonNullable<T>, false>;
    if (performance.now() > endMs) throw new Error(`waited ${limitMs / 1000} s in vain for ${what}`);
    await elapse(EVERY_MS);
  }
}
