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
 * Cost: one object of about 100 bytes for each range of fresh tasks that was assigned and waits as it came, and one with a
 * map entry for each other live attempt (job-account.ts); nothing for waiting work. An operation on a task is O(1), beside
 * the search for its span; a start looks at most PASS_MAX (book.ts) attempts past those that do not fit.
 */
import { Book } from './book.js';
import type { JobAccount } from './job-account.js';
import { Entry, type LiveAttempt, NOT_STARTED, type Share } from './live-attempt.js';
import { fitCount, isLarge, Space } from './room.js';
import { type NodeRoom, nodeRoom } from './node-room.js';
import type { Kind, Prefilled, Retraction, Room, Snapshot } from './scheduler/types.js';
import { attemptKey, NOWHERE, type TaskPast, type TaskRef } from './task.js';

export type { LiveAttempt } from './live-attempt.js';

/** An assignment as the store returned it. */
export interface AssignedRef extends TaskRef, TaskPast {
  node: number;
}

/** Successive fresh tasks of one job, from `from` to before `to`, that were given to a node at once. */
export interface AssignedSpan {
  job: number;
  node: number;
  from: number;
  to: number;
}

/** A run of live first attempts of one node: which of them have entries of their own, and since when which are assigned. */
export interface LiveRun {
  singles: readonly LiveAttempt[];
  /** In order of the indexes. */
  pieces: readonly { size: number; assignedAtMs: number }[];
}

export class Ledger {
  readonly #book = new Book();

  /** Live attempts in all. */
  get size(): number {
    return this.#book.size;
  }

  /** Makes a node known or changes what it has. What is assigned there stays and is fitted anew. */
  setNode(seq: number, total: Room): void {
    const node = this.#book.node(seq);
    node.total = total;
    node.free = new Space(total);
    node.largeWaiting = 0;
    for (let entry = node.holding.first; entry; entry = entry.next) node.free.take(entry.share.account.cost);
    for (let entry = node.waiting.first; entry; entry = entry.next)
      if (isLarge(entry.share.account.cost, total)) node.largeWaiting += entry.size;
    this.#book.startWhatFits(node);
  }

  /** Forgets a node; what was still assigned there is forgotten with it and returned, oldest first. */
  removeNode(seq: number): LiveAttempt[] {
    const entries = this.ofNode(seq);
    for (const entry of entries) this.remove(entry);
    this.releaseAll(seq);
    this.#book.nodes.delete(seq);
    return entries;
  }

  /**
   * Records an assignment that was committed. An older generation of the same task makes way; when a newer one, or this
   * one, is there already, that one is returned and nothing changes. A node that is not known yet has no room: all waits.
   */
  add(task: AssignedRef, kind: Kind, submitter: string, nowMs: number): LiveAttempt {
    const account = this.#book.account(task.job, kind, submitter);
    for (let existing = account.get(task.index); existing; existing = account.get(task.index)) {
      if (existing.generation >= task.generation) return existing;
      this.#book.drop(existing);
    }
    const node = this.#book.node(task.node);
    const share = this.#book.share(node, account);
    const { index, generation, failures, losses, failedNodes = NOWHERE } = task;
    const entry = new Entry(share, index, generation, failures, losses, Math.round(nowMs));
    if (failedNodes.length > 0) entry.failedNodes = failedNodes;
    account.put(entry);
    this.#book.jobs.set(account.job, account);
    this.#book.size++;
    if (fitCount(node.free, account.cost) > 0) this.#book.hold(node, entry);
    else this.#book.wait(node, entry);
    return entry;
  }

  /** The same of fresh tasks, in order. */
  addSpan({ job, node: seq, from, to }: AssignedSpan, kind: Kind, submitter: string, nowMs: number): void {
    const account = this.#book.account(job, kind, submitter);
    this.#book.jobs.set(job, account);
    const node = this.#book.node(seq);
    let index = from;
    const isFresh = account.isFreshFrom(from);
    for (; index < to && (!isFresh || fitCount(node.free, account.cost) > 0); index++)
      this.add({ job, index, generation: 1, node: seq, failures: 0, losses: 0 }, kind, submitter, nowMs);
    if (index === to) return;
    const span = new Entry(this.#book.share(node, account), index, 1, 0, 0, Math.round(nowMs));
    span.isSpan = true;
    span.size = to - index;
    account.putSpan(span);
    this.#book.size += span.size;
    this.#book.wait(node, span);
  }

  /** The attempt with exactly this generation and, when given, on this node; anything else is superseded or unknown. */
  get(ref: TaskRef, node?: number): LiveAttempt | undefined {
    return this.#book.find(ref, node);
  }

  /** Whichever attempt of the task is live; the later one of two. */
  current(job: number, index: number): LiveAttempt | undefined {
    return this.#book.jobs.get(job)?.get(index);
  }

  /** Whether any attempt of the task is live. */
  has(job: number, index: number): boolean {
    return this.#book.jobs.get(job)?.has(index) ?? false;
  }

  /** Successive first attempts, when all of them are live on the node, and none makes way for a copy. */
  liveRun(job: number, node: number, first: number, count: number): LiveRun | undefined {
    const account = this.#book.jobs.get(job);
    if (!account) return undefined;
    const [singles, pieces]: [LiveAttempt[], { size: number; assignedAtMs: number }[]] = [[], []];
    for (let index = first; index < first + count; ) {
      const entry = account.entries.get(index) ?? account.spanOf(index);
      if (entry?.generation !== 1 || entry.node !== node) return undefined;
      if (account.entries.has(index)) singles.push(entry);
      const size = Math.min(entry.after, first + count) - index;
      pieces.push({ size, assignedAtMs: entry.assignedAtMs });
      index += size;
    }
    return { singles, pieces };
  }

  /** Takes out those of successive first attempts that are live on the node, as `remove` does one. */
  removeRun(job: number, node: number, first: number, count: number): void {
    const account = this.#book.jobs.get(job);
    const home = this.#book.nodes.get(node);
    if (!account || !home) return;
    let fallsFree = false;
    for (let index = first; index < first + count; index++) {
      const span = account.entries.has(index) ? undefined : account.spanOf(index);
      if (span?.node === node) {
        const to = Math.min(span.after, first + count);
        this.#book.cut(account, span, index, to);
        index = to - 1;
        continue;
      }
      const entry = span ? undefined : this.#book.find({ job, index, generation: 1 }, node);
      if (!entry) continue;
      fallsFree ||= entry.holding;
      this.#book.take(entry);
    }
    if (fallsFree) this.#book.startWhatFits(home);
  }

  /** Every live attempt of the task: two where it was copied, the copy first. A copy of the list. */
  ofTask(job: number, index: number): LiveAttempt[] {
    const account = this.#book.jobs.get(job);
    return [account?.get(index), account?.originals?.get(index)].filter((entry) => entry !== undefined);
  }

  /**
   * Makes way for a copy of the task without ending: the attempt keeps its room and its place, and is the task's only one
   * again when the copy is removed first. Refused when it is not the task's only live attempt.
   */
  setAside(ref: TaskRef): boolean {
    const account = this.#book.jobs.get(ref.job);
    const entry = account?.get(ref.index);
    if (!account || entry?.generation !== ref.generation || account.originals?.has(ref.index)) return false;
    account.entries.delete(ref.index);
    account.originals ??= new Map();
    account.originals.set(ref.index, entry);
    return true;
  }

  /** The other attempt of a copied task has ended, and this is what the task counts now. */
  recount(ref: TaskRef, { failures, losses, failedNodes = NOWHERE }: TaskPast): void {
    const entry = this.#book.find(ref, undefined);
    if (!entry) return;
    Object.assign(entry, { failures, losses, failedNodes });
    if (!entry.holding) this.#book.warn(entry);
  }

  /** The agent says that it runs. False when the reference is stale. */
  markRunning(ref: TaskRef, node: number, startedAtMs: number): boolean {
    const entry = this.#book.find(ref, node);
    if (!entry) return false;
    entry.startedAt = Math.max(NOT_STARTED + 1, Math.round(startedAtMs));
    if (!entry.holding) {
      this.#book.unwait(entry);
      this.#book.hold(entry.share.home, entry);
    }
    return true;
  }

  /** Takes the attempt out, after its settlement was committed; its room goes to what waits there. */
  remove(ref: TaskRef, node?: number): LiveAttempt | undefined {
    const entry = this.#book.find(ref, node);
    if (!entry) return undefined;
    this.#book.drop(entry);
    return entry;
  }

  /**
   * The attempt is its task's no more, because another one was preferred, and is being killed: nobody finds it here from
   * now on, but what it holds stays taken until `release`. False when the reference is stale.
   */
  condemn(ref: TaskRef, node: number): boolean {
    const entry = this.#book.find(ref, node);
    if (!entry) return false;
    if (!entry.holding) {
      this.#book.drop(entry);
      return true;
    }
    entry.condemned = true;
    entry.share.account.condemned++;
    this.#book.condemned.set(attemptKey(entry), entry);
    this.#book.strike(entry);
    return true;
  }

  /** Its agent says that a condemned attempt is dead, or has ended before it heard. Costs nothing while there is none. */
  release(ref: TaskRef, node: number): void {
    if (this.#book.condemned.size === 0) return;
    const entry = this.#book.condemned.get(attemptKey(ref));
    if (entry?.node === node) this.#book.bury(entry);
  }

  /** What is being killed there. A copy. */
  condemnedOn(node: number): TaskRef[] {
    return [...this.#book.condemned.values()].filter((entry) => entry.node === node);
  }

  /** The node is gone, or knows nothing of what was condemned there. */
  releaseAll(node: number): void {
    for (const entry of [...this.#book.condemned.values()]) if (entry.node === node) this.#book.bury(entry);
  }

  /**
   * Picks up to `count` waiting attempts of the job on the node, the latest first, or the one of this index, and marks them
   * as asked back, so that the next plan does not ask again. They stay until the agent answers: `remove` what it dropped,
   * `keep` the others. Those of tasks that failed somewhere are only taken by their index.
   */
  takeBack({ node, job, count, index }: Retraction): TaskRef[] {
    const share = this.#book.nodes.get(node)?.shares.get(job);
    const taken: TaskRef[] = [];
    if (!share) return taken;
    const take = (entry: Entry): void => {
      entry.retracting = true;
      share.retracting++;
      taken.push({ job, index: entry.index, generation: entry.generation });
    };
    if (index !== undefined) {
      for (const entry of [share.account.get(index), share.account.originals?.get(index)])
        if (entry && share.wary?.has(entry) && !entry.retracting) take(entry);
      return taken;
    }
    let [open, last] = [Math.min(count, plainOf(share)), share.home.waiting.last];
    for (; last && open > 0; last = last.previous) {
      if (last.share !== share || last.retracting || last.failedNodes.length > 0) continue;
      last = this.#book.single(last, last.after - 1);
      take(last);
      open--;
    }
    return taken;
  }

  /** The agent kept it, because it runs or has ended; it may be asked for again. */
  keep(ref: TaskRef, node: number): void {
    const entry = this.#book.find(ref, node);
    if (!entry?.retracting) return;
    entry.retracting = false;
    if (!entry.holding) entry.share.retracting--;
  }

  /** Everything assigned to the node: first what holds resources, then what waits, each in order of arrival. A copy. */
  ofNode(seq: number): LiveAttempt[] {
    const node = this.#book.nodes.get(seq);
    const entries: LiveAttempt[] = [];
    if (!node) return entries;
    for (let entry = node.holding.first; entry; entry = entry.next) if (!entry.condemned) entries.push(entry);
    for (let next = node.waiting.first; next; next = next.next) {
      next = this.#book.single(next, next.index);
      entries.push(next);
    }
    return entries;
  }

  /** How many those are: of them what holds resources, and what waits. */
  countOn(seq: number): { holding: number; waiting: number } {
    const node = this.#book.nodes.get(seq);
    let holding = 0;
    for (let entry = node?.holding.first; entry; entry = entry.next) if (!entry.condemned) holding++;
    return { holding, waiting: node?.waiting.size ?? 0 };
  }

  /** Everything assigned of the job, in no order. A copy. */
  ofJob(job: number): LiveAttempt[] {
    const account = this.#book.jobs.get(job);
    if (!account) return [];
    for (const span of [...account.spans]) account.unfold(span);
    return account.singles();
  }

  /** Of those the ones that their agents say have started. */
  runningOf(job: number): LiveAttempt[] {
    const singles = this.#book.jobs.get(job)?.singles() ?? [];
    return singles.filter(({ startedAtMs }) => startedAtMs !== undefined);
  }

  /** The tasks of the job that have live attempts, from an index on, in order. */
  indexesOf(job: number, fromIndex: number): number[] {
    const account = this.#book.jobs.get(job);
    const indexes = [...(account?.entries.keys() ?? []), ...(account?.originals?.keys() ?? [])];
    for (const span of account?.spans ?? [])
      for (let index = span.index; index < span.after; index++) indexes.push(index);
    return [...new Set(indexes.filter((index) => index >= fromIndex))].sort((a, b) => a - b);
  }

  /** Number of live attempts of the job: WorkView.held. */
  heldByJob(job: number): number {
    return this.#book.jobs.get(job)?.held ?? 0;
  }

  /** Those, and what is still dying of it: what the job takes up. */
  occupiedByJob(job: number): number {
    return this.heldByJob(job) + (this.#book.jobs.get(job)?.condemned ?? 0);
  }

  /** The jobs that take up anything; some have ended, and their attempts are being killed. */
  occupants(): IterableIterator<Pick<JobAccount, 'job' | 'kind'>> {
    return this.#book.jobs.values();
  }

  /** How the node stands. `taskMsOf` gives a job's learned task time. The free room is live: copy it to keep it. */
  room(seq: number, taskMsOf: (job: number) => number | undefined = () => undefined): NodeRoom {
    return nodeRoom(this.#book.nodes.get(seq), taskMsOf);
  }

  /** Attempts that wait and were not asked back yet, per node and job: Snapshot.prefilled. */
  prefilled(): Snapshot['prefilled'] {
    const rows: Prefilled[] = [];
    for (const { seq: node, waiting, shares } of this.#book.nodes.values()) {
      if (waiting.size === 0) continue;
      for (const share of shares.values()) {
        const { job } = share.account;
        const count = plainOf(share);
        if (count > 0) rows.push({ node, job, count });
        for (const { index, failedNodes, retracting } of share.wary ?? [])
          if (!retracting) rows.push({ node, job, count: 1, index, failedNodes });
      }
    }
    return rows;
  }

  /** Live attempts of each submitter: Snapshot.heldBySubmitter. Looks at the jobs that have any. */
  heldBySubmitter(): ReadonlyMap<string, number> {
    const held = new Map<string, number>();
    for (const { submitter, held: count } of this.#book.jobs.values())
      if (count > 0) held.set(submitter, (held.get(submitter) ?? 0) + count);
    return held;
  }
}

/** How many wait there that were not asked back and have failed nowhere. */
function plainOf({ waiting, retracting, wary }: Share): number {
  let count = waiting - retracting;
  for (const entry of wary ?? []) if (!entry.retracting) count--;
  return count;
}
