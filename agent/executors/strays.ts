/**
 * Finds and kills processes that left their attempt's process group: `setsid`, double forks, daemons. Every attempt has
 * a cookie in its environment, `<marker>/<boot>/<name>`; children inherit it whatever they do with sessions and parents.
 * What it cannot find is a process that cleared its environment *and* left its group and its parents before the tree was
 * looked at; only a sandbox with its own process namespace rules that out.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../../common/clock.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { AttemptRef } from '../core/types.js';
import type { Child } from './child.js';
import {
  type ProcessEntry,
  readCookie,
  readPids,
  readProcess,
  readProcesses,
  sendSignal,
  withDescendants,
} from './process-table.js';

/** New processes may appear while old ones are killed; a fork bomb is fought this many rounds. */
const ROUNDS_MAX = 50;
/** A sweep lets other work in after so many processes. */
const PIDS_PER_TURN = 256;

/**
 * Kills every process whose cookie begins with this marker, except those `keep` wants; returns how many. With the
 * default it cleans up after an earlier agent on the same data directory: call it before anything is started. One that
 * dies has no environment any more and is there for a moment all the same: they are gone when this resolves.
 */
export async function sweepStrays(marker: string, keep: (cookie: string) => boolean = () => false): Promise<number> {
  const killed = new Map<number, number>();
  const dies = ([pid, startTicks]: [number, number]): boolean => {
    const entry = readProcess(pid);
    return entry?.startTicks === startTicks && !entry.zombie;
  };
  for (let round = 0; round < ROUNDS_MAX; round++) {
    let found = [...killed].filter(dies).length;
    for (const [i, pid] of readPids().entries()) {
      if (i % PIDS_PER_TURN === PIDS_PER_TURN - 1) await nextTurn();
      if (pid === process.pid) continue;
      const cookie = readCookie(pid);
      if (!cookie?.startsWith(`${marker}/`) || keep(cookie)) continue;
      const entry = readProcess(pid);
      if (entry?.zombie !== false || !sendSignal(pid, 'SIGKILL')) continue;
      found++;
      killed.set(pid, entry.startTicks);
    }
    if (found === 0) break;
    await nextTurn();
  }
  return killed.size;
}

/** Processes seen in an attempt's tree, by pid, with their start: found again even after their parents are gone. */
export type Tracked = Map<number, number>;

/**
 * Everything alive that belongs to an attempt: its group, its cookie, its descendants, and what was tracked.
 * @param main 0 when nobody knows it
 */
export function findTree(main: number, cookie: string, tracked: Tracked): ProcessEntry[] {
  const table = readProcesses();
  const roots = new Set<number>();
  for (const entry of table) {
    const known = tracked.get(entry.pid) === entry.startTicks;
    if (known || (main > 0 && entry.group === main) || (entry.pid !== process.pid && readCookie(entry.pid) === cookie))
      roots.add(entry.pid);
  }
  return withDescendants(table, roots).filter((entry) => !entry.zombie && entry.pid !== process.pid);
}

/**
 * SIGKILL to the group and the whole tree, again until nothing is left.
 * @param main undefined when it has ended: its number, and that of its group, may be another's by now
 */
export async function killTree(main: Child | undefined, cookie: string, tracked: Tracked): Promise<void> {
  for (let round = 0; round < ROUNDS_MAX; round++) {
    main?.signalGroup('SIGKILL');
    const killed = findTree(main?.pid ?? 0, cookie, tracked).filter((entry) => sendSignal(entry.pid, 'SIGKILL'));
    if (killed.length === 0) return;
    for (const entry of killed) tracked.set(entry.pid, entry.startTicks);
    await nextTurn();
  }
}

/** Hands out cookies and, from time to time, kills what carries one that is not in use any more. */
export class StrayWatch implements Service {
  readonly name = 'strays';
  readonly #prefix: string;
  readonly #marker: string;
  readonly #live = new Set<string>();
  readonly #loop: Loop;
  #retired = 0;
  /** A process that executes another program has no environment for a moment; so it is looked for once more. */
  #again = false;

  constructor(options: { marker: string; boot: string; clock: Clock; log: Logger; everyMs?: number }) {
    this.#marker = options.marker;
    this.#prefix = `${options.marker}/${options.boot}/`;
    this.#loop = new Loop({
      name: this.name,
      clock: options.clock,
      everyMs: options.everyMs ?? 2000,
      turn: async () => {
        if (this.#retired === 0 && !this.#again) return;
        this.#again = this.#retired > 0;
        this.#retired = 0;
        const killed = await this.sweep();
        if (killed > 0) options.log.warn({ event: 'task.strays-killed', killed }, 'processes had left their task');
      },
      onError: (err) => options.log.error({ event: 'task.sweep-failed', err }, 'looking for stray processes failed'),
    });
  }

  issue(name: string): string {
    const cookie = this.#prefix + name;
    this.#live.add(cookie);
    return cookie;
  }

  /** Nothing with this cookie should run any more. */
  retire(cookie: string): void {
    if (this.#live.delete(cookie)) this.#retired++;
  }

  sweep(): Promise<number> {
    return sweepStrays(this.#marker, (cookie) => this.#live.has(cookie));
  }

  start(): Promise<void> {
    return this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
    await this.sweep();
  }
}

/** For an attempt that is about to begin. */
export const issueCookie = (strays: StrayWatch, { job, index, generation }: AttemptRef): string =>
  strays.issue(`${job}.${index}.${generation}`);
