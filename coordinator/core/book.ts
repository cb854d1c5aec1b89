/**
 * What the ledger (ledger.ts) keeps its account in: nodes with what holds their room and what waits there, jobs with their
 * live attempts, and every way to move one from here to there.
 */
import { JobAccount } from './job-account.js';
import { type Entry, List, type NodeAccount, type Share } from './live-attempt.js';
import { costOf, fitCount, isLarge, NO_ROOM, Space } from './room.js';
import type { Kind } from './scheduler/types.js';
import { attemptKey, type TaskRef } from './task.js';

/** How far past attempts that do not fit a start looks for one that does. */
const PASS_MAX = 64;

export class Book {
  readonly nodes = new Map<number, NodeAccount>();
  readonly jobs = new Map<number, JobAccount>();
  /** Struck from their jobs, and holding their room until they are buried. */
  readonly condemned = new Map<string, Entry>();
  /** Live attempts in all. */
  size = 0;

  find(ref: TaskRef, node: number | undefined): Entry | undefined {
    const account = this.jobs.get(ref.job);
    let entry = ref.generation === 1 ? account?.get(ref.index) : account?.entries.get(ref.index);
    if (entry?.generation !== ref.generation) entry = account?.originals?.get(ref.index);
    if (entry?.generation !== ref.generation || (node !== undefined && entry.node !== node)) return undefined;
    return entry;
  }

  node(seq: number): NodeAccount {
    let node = this.nodes.get(seq);
    if (!node) {
      const lists = { holding: new List(), waiting: new List() };
      node = { seq, total: NO_ROOM, free: new Space(NO_ROOM), ...lists, largeWaiting: 0, shares: new Map() };
      this.nodes.set(seq, node);
    }
    return node;
  }

  account(job: number, kind: Kind, submitter: string): JobAccount {
    return this.jobs.get(job) ?? new JobAccount(job, kind, costOf(kind.resources), submitter);
  }

  share(home: NodeAccount, account: JobAccount): Share {
    let share = home.shares.get(account.job);
    if (!share) {
      share = { account, home, holding: 0, waiting: 0, retracting: 0, wary: undefined };
      home.shares.set(account.job, share);
    }
    return share;
  }

  hold(node: NodeAccount, entry: Entry): void {
    entry.holding = true;
    entry.share.holding++;
    node.holding.append(entry);
    node.free.take(entry.share.account.cost);
  }

  wait(node: NodeAccount, entry: Entry): void {
    entry.share.waiting += entry.size;
    this.warn(entry);
    node.waiting.append(entry);
    if (isLarge(entry.share.account.cost, node.total)) node.largeWaiting += entry.size;
  }

  /** It waits, and its task has failed elsewhere meanwhile. */
  warn(entry: Entry): void {
    if (entry.failedNodes.length > 0) (entry.share.wary ??= new Set()).add(entry);
  }

  /** One of a span by itself; what is none is it already. */
  single(entry: Entry, index: number): Entry {
    const { account } = entry.share;
    return entry.isSpan ? account.carve(entry, index) : entry;
  }

  cut(account: JobAccount, span: Entry, from: number, to: number): void {
    const { share } = span;
    account.cut(span, from, to);
    share.waiting -= to - from;
    if (isLarge(account.cost, share.home.total)) share.home.largeWaiting -= to - from;
    this.size -= to - from;
    this.#forgetEmpty(share);
  }

  /** What nothing is left of. */
  #forgetEmpty({ account, home, holding, waiting }: Share): void {
    if (account.isEmpty) this.jobs.delete(account.job);
    if (holding + waiting === 0) home.shares.delete(account.job);
  }

  unwait(entry: Entry): void {
    const { share } = entry;
    share.waiting--;
    if (entry.retracting) share.retracting--;
    share.wary?.delete(entry);
    share.home.waiting.remove(entry);
    if (isLarge(share.account.cost, share.home.total)) share.home.largeWaiting--;
  }

  /** Where a copy goes, its original is the task's only attempt again. */
  #unlist(account: JobAccount, entry: Entry): void {
    const original = account.originals?.get(entry.index);
    if (original) account.originals?.delete(entry.index);
    if (account.entries.get(entry.index) !== entry) return;
    if (original) account.entries.set(entry.index, original);
    else account.entries.delete(entry.index);
  }

  /** Out of everything by which a task's attempts are found and counted. */
  strike(entry: Entry): void {
    this.#unlist(entry.share.account, entry);
    this.size--;
  }

  drop(entry: Entry): void {
    this.take(entry);
    if (entry.holding) this.startWhatFits(entry.share.home);
  }

  /** What waits for its room does not start yet. */
  take(entry: Entry): void {
    this.strike(entry);
    if (entry.holding) this.#vacate(entry);
    else this.unwait(entry);
    this.#forgetEmpty(entry.share);
  }

  bury(entry: Entry): void {
    const { account, home } = entry.share;
    this.condemned.delete(attemptKey(entry));
    account.condemned--;
    this.#vacate(entry);
    this.#forgetEmpty(entry.share);
    this.startWhatFits(home);
  }

  #vacate(entry: Entry): void {
    const { account, home } = entry.share;
    entry.share.holding--;
    home.holding.remove(entry);
    home.free.give(account.cost);
  }

  /** In order of arrival, the first that fits; attempts that do not fit are passed by. */
  startWhatFits(node: NodeAccount): void {
    let passed = 0;
    for (let first = node.waiting.first; first && node.free.slots > 0 && passed < PASS_MAX; ) {
      if (fitCount(node.free, first.share.account.cost) === 0) {
        passed += first.size;
        first = first.next;
        continue;
      }
      const entry = this.single(first, first.index);
      first = entry.next;
      this.unwait(entry);
      this.hold(node, entry);
    }
  }
}
