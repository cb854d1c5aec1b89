/**
 * Waiting in end-to-end tests: a predicate is looked at again whenever something that can change it says so. Nothing
 * polls and nothing sleeps; the limit only turns a wait that would never end into a sentence that says what for.
 */
import { type FSWatcher, watch } from 'node:fs';

/** Something that can say "look again". */
export interface SignalSource {
  /** @returns how to stop listening */
  onChange(listener: () => void): () => void;
}

type Answer<T> = T | false | undefined | null;

/** Well below the limit of tap, so that the sentence gets printed. */
const LIMIT_MS = 60_000;

/**
 * The first true answer of `predicate`, asked now and after every signal.
 * @param what what is waited for, for the error
 */
export async function until<T>(
  what: string,
  predicate: () => Answer<T> | Promise<Answer<T>>,
  ...sources: readonly SignalSource[]
): Promise<T> {
  let changed = true;
  let wake: () => void = () => undefined;
  const releases = sources.map((source) =>
    source.onChange(() => {
      changed = true;
      wake();
    }),
  );
  let expire: () => void = () => undefined;
  const expired = new Promise<never>((_, reject) => {
    expire = () => reject(new Error(`waited ${LIMIT_MS / 1000} s in vain for ${what}`));
  });
  const timer = setTimeout(expire, LIMIT_MS);
  const look = async (): Promise<T> => {
    for (;;) {
      changed = false;
      const answer = await predicate();
      if (answer !== false && answer !== undefined && answer !== null) return answer;
      if (!changed) await new Promise<void>((resolve) => (wake = resolve));
    }
  };
  try {
    return await Promise.race([look(), expired]);
  } finally {
    clearTimeout(timer);
    for (const release of releases) release();
  }
}

/** `promise`, or an error that says what did not happen within the limit. */
export function withLimit<T>(what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${LIMIT_MS / 1000} s in vain for ${what}`)), LIMIT_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** Signals when an entry of a folder is made, removed or written to. */
export class FolderSignal implements SignalSource {
  readonly #watcher: FSWatcher;
  readonly #listeners = new Set<() => void>();

  constructor(path: string) {
    this.#watcher = watch(path, { persistent: false }, () => {
      for (const listener of this.#listeners) listener();
    });
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#watcher.close();
  }
}
