/**
 * What is assigned where, in memory: the planner's view of the nodes, and the fence of every message about an attempt.
 *
 * The ledger mirrors the rule by which an agent starts what it was given: in order of arrival, the first that fits into
 * the free room. An attempt the agent has started, or will as soon as it hears of it, *holds* its resources; the others
 * wait in the node's prefill queue and hold none. When an agent did otherwise (its word comes with `markRunning`), the
 * ledger follows, even if that overdraws the node until something ends.
 *
 * First-fit would let a stream of small tasks overtake a large one for ever. `room` therefore names what the oldest
 * large attempt that waits there asks (`reserve`), and the planner puts nothing smaller in front of it. What was queued
 * behind it before may still overtake, which the prefill depth bounds.
 *
 * Cost: one object of about 100 bytes and one map entry for each live attempt, nothing for waiting work; every operation
 * on a task is O(1), except that a start looks at most PASS_MAX attempts past those that do not fit.
 */
import {
  Entry,
  type JobAccount,
  List,
  type LiveAttempt,
  NOT_STARTED,
  type NodeAccount,
  type Share,
} from './live-attempt.js';
import { costOf, fitCount, isLarge, NO_ROOM, Space } from './room.js';
import { type NodeRoom, nodeRoom } from './node-room.js';
import type { Kind, Room, Snapshot } from './scheduler/types.js';
import { attemptKey, type AttemptCounts, type TaskRef } from './task.js';

export type { LiveAttempt } from './live-attempt.js';

/** How far past attempts that do not fit a start looks for one that does. */
const PASS_MAX = 64;

/** An assignment as the store returned it. */
export interface AssignedRef extends TaskRef {
  node: number;
  failures: number;
  losses: number;
}

export class Ledger {
  readonly #nodes = new Map<number, NodeAccount>();
  readonly #jobs = new Map<number, JobAccount>();
  readonly #condemned = new Map<string, Entry>();
  #size = 0;

  /** Live attempts in all. */
  get size(): number {
    return this.#size;
  }

  /** Makes a node known or changes what it has. What is assigned there stays and is fitted anew. */
  setNode(seq: number, total: Room): void {
    const node = this.#node(seq);
    node.total = total;
    node.free = new Space(total);
    node.largeWaiting = 0;
    for (let entry = node.holding.first; entry; entry = entry.next) node.free.take(entry.share.account.cost);
    for (let entry = node.waiting.first; entry; entry = entry.next)
      if (isLarge(entry.share.account.cost, total)) node.largeWaiting++;
    this.#startWhatFits(node);
  }

  /** Forgets a node; what was still assigned there is forgotten with it and returned, oldest first. */
  removeNode(seq: number): LiveAttempt[] {
    const entries = this.ofNode(seq);
    for (const entry of entries) this.remove(entry);
    this.releaseAll(seq);
    this.#nodes.delete(seq);
    return entries;
  }

  /**
   * Records an assignment that was committed. An older generation of the same task makes way; when a newer one, or this
   * one, is there already, that one is returned and nothing changes. A node that is not known yet has no room: all waits.
   */
  add(task: AssignedRef, kind: Kind, submitter: string, nowMs: number): LiveAttempt {
    const account = this.#account(task.job, kind, submitter);
    for (let existing = account.entries.get(task.index); existing; existing = account.entries.get(task.index)) {
      if (existing.generation >= task.generation) return existing;
      this.#drop(existing);
    }
    const node = this.#node(task.node);
    const share = this.#share(node, account);
    const { index, generation, failures, losses } = task;
    const entry = new Entry(share, index, generation, failures, losses, Math.round(nowMs));
    account.entries.set(index, entry);
    this.#jobs.set(account.job, account);
    this.#size++;
    if (fitCount(node.free, account.cost) > 0) this.#hold(node, entry);
    else this.#wait(node, entry);
    return entry;
  }

  /** The attempt with exactly this generation and, when given, on this node; anything else is superseded or unknown. */
  get(ref: TaskRef, node?: number): LiveAttempt | undefined {
    return this.#find(ref, node);
  }

  /** Whichever attempt of the task is live; the later one of two. */
  current(job: number, index: number): LiveAttempt | undefined {
    return this.#jobs.get(job)?.entries.get(index);
  }

  /** Every live attempt of the task: two where it was copied, the copy first. A copy of the list. */
  ofTask(job: number, index: number): LiveAttempt[] {
    const account = this.#jobs.get(job);
    return [account?.entries.get(index), account?.originals?.get(index)].filter((entry) => entry !== undefined);
  }

  /**
   * Makes way for a copy of the task without ending: the attempt keeps its room and its place, and is the task's only one
   * again when the copy is removed first. Refused when it is not the task's only live attempt.
   */
  setAside(ref: TaskRef): boolean {
    const account = this.#jobs.get(ref.job);
    const entry = account?.entries.get(ref.index);
    if (!account || entry?.generation !== ref.generation || account.originals?.has(ref.index)) return false;
    account.entries.delete(ref.index);
    account.originals ??= new Map();
    account.originals.set(ref.index, entry);
    return true;
  }

  /** The other attempt of a copied task has ended, and this is what the task counts now. */
  recount(ref: TaskRef, counts: AttemptCounts): void {
    const entry = this.#find(ref, undefined);
    if (entry) Object.assign(entry, { failures: counts.failures, losses: counts.losses });
  }

  /** The agent says that it runs. False when the reference is stale. */
  markRunning(ref: TaskRef, node: number, startedAtMs: number): boolean {
    const entry = this.#find(ref, node);
    if (!entry) return false;
    entry.startedAt = Math.max(NOT_STARTED + 1, Math.round(startedAtMs));
    if (!entry.holding) {
      this.#unwait(entry);
      this.#hold(entry.share.home, entry);
    }
    return true;
  }

  /** Takes the attempt out, after its settlement was committed; its room goes to what waits there. */
  remove(ref: TaskRef, node?: number): LiveAttempt | undefined {
    const entry = this.#find(ref, node);
    if (!entry) return undefined;
    this.#drop(entry);
    return entry;
  }

  /**
   * The attempt is its task's no more, because another one was preferred, and is being killed: nobody finds it here from
   * now on, but what it holds stays taken until `release`. False when the reference is stale.
   */
  condemn(ref: TaskRef, node: number): boolean {
    const entry = this.#find(ref, node);
    if (!entry) return false;
    if (!entry.holding) {
      this.#drop(entry);
      return true;
    }
    entry.condemned = true;
    entry.share.account.condemned++;
    this.#condemned.set(attemptKey(entry), entry);
    this.#strike(entry);
    return true;
  }

  /** Its agent says that a condemned attempt is dead, or has ended before it heard. Costs nothing while there is none. */
  release(ref: TaskRef, node: number): void {
    if (this.#condemned.size === 0) return;
    const entry = this.#condemned.get(attemptKey(ref));
    if (entry?.node === node) this.#bury(entry);
  }

  /** What is being killed there. A copy. */
  condemnedOn(node: number): TaskRef[] {
    return [...this.#condemned.values()].filter((entry) => entry.node === node);
  }

  /** The node is gone, or knows nothing of what was condemned there. */
  releaseAll(node: number): void {
    for (const entry of [...this.#condemned.values()]) if (entry.node === node) this.#bury(entry);
  }

  /**
   * Picks up to `count` waiting attempts of the job on the node, the latest first, and marks them as asked back, so that
   * the next plan does not ask again. They stay until the agent answers: `remove` what it dropped, `keep` the others.
   */
  takeBack(node: number, job: number, count: number): TaskRef[] {
    const share = this.#nodes.get(node)?.shares.get(job);
    const taken: TaskRef[] = [];
    if (!share) return taken;
    const available = Math.min(count, share.waiting - share.retracting);
    for (let entry = share.home.waiting.last; entry && taken.length < available; entry = entry.previous) {
      if (entry.share !== share || entry.retracting) continue;
      entry.retracting = true;
      share.retracting++;
      taken.push({ job, index: entry.index, generation: entry.generation });
    }
    return taken;
  }

  /** The agent kept it, because it runs or has ended; it may be asked for again. */
  keep(ref: TaskRef, node: number): void {
    const entry = this.#find(ref, node);
    if (!entry?.retracting) return;
    entry.retracting = false;
    if (!entry.holding) entry.share.retracting--;
  }

  /** Everything assigned to the node: first what holds resources, then what waits, each in order of arrival. A copy. */
  ofNode(seq: number): LiveAttempt[] {
    const node = this.#nodes.get(seq);
    const entries: LiveAttempt[] = [];
    if (!node) return entries;
    for (let entry = node.holding.first; entry; entry = entry.next) if (!entry.condemned) entries.push(entry);
    for (let entry = node.waiting.first; entry; entry = entry.next) entries.push(entry);
    return entries;
  }

  /** Everything assigned of the job, in no order. A copy. */
  ofJob(job: number): LiveAttempt[] {
    const account = this.#jobs.get(job);
    return [...(account?.entries.values() ?? []), ...(account?.originals?.values() ?? [])];
  }

  /** The tasks of the job that have live attempts, from an index on, in order. */
  indexesOf(job: number, fromIndex: number): number[] {
    const account = this.#jobs.get(job);
    const indexes = [...(account?.entries.keys() ?? []), ...(account?.originals?.keys() ?? [])];
    return [...new Set(indexes.filter((index) => index >= fromIndex))].sort((a, b) => a - b);
  }

  /** Number of live attempts of the job: WorkView.held. */
  heldByJob(job: number): number {
    const account = this.#jobs.get(job);
    return account ? account.entries.size + (account.originals?.size ?? 0) : 0;
  }

  /** Those, and what is still dying of it: what the job takes up. */
  occupiedByJob(job: number): number {
    return this.heldByJob(job) + (this.#jobs.get(job)?.condemned ?? 0);
  }

  /** The jobs that take up anything; some have ended, and their attempts are being killed. */
  occupants(): IterableIterator<Pick<JobAccount, 'job' | 'kind'>> {
    return this.#jobs.values();
  }

  /** How the node stands. `taskMsOf` gives a job's learned task time. The free room is live: copy it to keep it. */
  room(seq: number, taskMsOf: (job: number) => number | undefined = () => undefined): NodeRoom {
    return nodeRoom(this.#nodes.get(seq), taskMsOf);
  }

  /** Attempts that wait and were not asked back yet, per node and job: Snapshot.prefilled. */
  prefilled(): Snapshot['prefilled'] {
    const rows: { node: number; job: number; count: number }[] = [];
    for (const node of this.#nodes.values()) {
      if (node.waiting.size === 0) continue;
      for (const { account, waiting, retracting } of node.shares.values())
        if (waiting > retracting) rows.push({ node: node.seq, job: account.job, count: waiting - retracting });
    }
    return rows;
  }

  /** Live attempts of each submitter: Snapshot.heldBySubmitter. Looks at the jobs that have any. */
  heldBySubmitter(): ReadonlyMap<string, number> {
    const held = new Map<string, number>();
    for (const { submitter, entries, originals } of this.#jobs.values()) {
      const count = entries.size + (originals?.size ?? 0);
      if (count > 0) held.set(submitter, (held.get(submitter) ?? 0) + count);
    }
    return held;
  }

  #find(ref: TaskRef, node: number | undefined): Entry | undefined {
    const account = this.#jobs.get(ref.job);
    let entry = account?.entries.get(ref.index);
    if (entry?.generation !== ref.generation) entry = account?.originals?.get(ref.index);
    if (entry?.generation !== ref.generation || (node !== undefined && entry.node !== node)) return undefined;
    return entry;
  }

  #node(seq: number): NodeAccount {
    let node = this.#nodes.get(seq);
    if (!node) {
      const lists = { holding: new List(), waiting: new List() };
      node = { seq, total: NO_ROOM, free: new Space(NO_ROOM), ...lists, largeWaiting: 0, shares: new Map() };
      this.#nodes.set(seq, node);
    }
    return node;
  }

  #account(job: number, kind: Kind, submitter: string): JobAccount {
    const known = this.#jobs.get(job);
    if (known) return known;
    return {
      job,
      kind,
      cost: costOf(kind.resources),
      submitter,
      entries: new Map(),
      originals: undefined,
      condemned: 0,
    };
  }

  #share(home: NodeAccount, account: JobAccount): Share {
    let share = home.shares.get(account.job);
    if (!share) {
      share = { account, home, holding: 0, waiting: 0, retracting: 0 };
      home.shares.set(account.job, share);
    }
    return share;
  }

  #hold(node: NodeAccount, entry: Entry): void {
    entry.holding = true;
    entry.share.holding++;
    node.holding.append(entry);
    node.free.take(entry.share.account.cost);
  }

  #wait(node: NodeAccount, entry: Entry): void {
    entry.share.waiting++;
    node.waiting.append(entry);
    if (isLarge(entry.share.account.cost, node.total)) node.largeWaiting++;
  }

  #unwait(entry: Entry): void {
    const { share } = entry;
    share.waiting--;
    if (entry.retracting) share.retracting--;
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
  #strike(entry: Entry): void {
    const { account } = entry.share;
    this.#unlist(account, entry);
    if (account.entries.size === 0 && !account.originals?.size && account.condemned === 0)
      this.#jobs.delete(account.job);
    this.#size--;
  }

  #drop(entry: Entry): void {
    const { home } = entry.share;
    this.#strike(entry);
    if (entry.holding) this.#vacate(entry);
    else this.#unwait(entry);
    if (entry.share.holding + entry.share.waiting === 0) home.shares.delete(entry.share.account.job);
  }

  #bury(entry: Entry): void {
    const { account, home } = entry.share;
    this.#condemned.delete(attemptKey(entry));
    account.condemned--;
    if (account.entries.size === 0 && !account.originals?.size && account.condemned === 0)
      this.#jobs.delete(account.job);
    this.#vacate(entry);
    if (entry.share.holding + entry.share.waiting === 0) home.shares.delete(account.job);
  }

  #vacate(entry: Entry): void {
    const { account, home } = entry.share;
    entry.share.holding--;
    home.holding.remove(entry);
    home.free.give(account.cost);
    this.#startWhatFits(home);
  }

  /** In order of arrival, the first that fits; attempts that do not fit are passed by. */
  #startWhatFits(node: NodeAccount): void {
    let passed = 0;
    for (let entry = node.waiting.first; entry && node.free.slots > 0 && passed < PASS_MAX; ) {
      const next: Entry | undefined = entry.next;
      if (fitCount(node.free, entry.share.account.cost) > 0) {
        this.#unwait(entry);
        this.#hold(node, entry);
      } else {
        passed++;
      }
      entry = next;
    }
  }
}
