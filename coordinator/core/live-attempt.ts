/** The ledger's records: what is linked into its nodes' lists. */
import type { Space } from './room.js';
import type { JobAccount } from './job-account.js';
import type { Kind, Room } from './scheduler/types.js';
import { NOWHERE, type TaskRef } from './task.js';

/** One assigned attempt, as the ledger lends it out: read it, keep it only as long as it is in the ledger. */
export interface LiveAttempt extends TaskRef {
  readonly node: number;
  readonly failures: number;
  readonly losses: number;
  /** Nodes that its task failed on before. */
  readonly failedNodes: readonly number[];
  readonly kind: Kind;
  readonly submitter: string;
  /** Monotonic, whole milliseconds. */
  readonly assignedAtMs: number;
  /** When the agent said it started; undefined before, and for tasks too short to be mentioned. */
  readonly startedAtMs: number | undefined;
  /** Holds resources; otherwise it waits in the node's prefill queue. */
  readonly holding: boolean;
  /** The node was asked to give it back. */
  readonly retracting: boolean;
}

/** The attempts of one job on one node. */
export interface Share {
  account: JobAccount;
  home: NodeAccount;
  holding: number;
  waiting: number;
  /** Of those waiting: asked back already. */
  retracting: number;
  /** Those waiting whose tasks failed somewhere, so that not every node is a place for them; mostly there are none. */
  wary: Set<Entry> | undefined;
}

export interface NodeAccount {
  seq: number;
  total: Room;
  free: Space;
  holding: List;
  waiting: List;
  /** Waiting attempts that are large for this node. */
  largeWaiting: number;
  shares: Map<number, Share>;
}

/** Lower than any start: an attempt may well be older than this process and its clock. */
export const NOT_STARTED = -(2 ** 31);

/** An attempt; or, as a *span*, successive first attempts that wait on one node since one moment, of which nothing else is to be said. */
export class Entry implements LiveAttempt {
  isSpan = false;
  /** How many attempts; 1 unless it is a span. */
  size = 1;
  holding = false;
  retracting = false;
  condemned = false;
  failedNodes = NOWHERE;
  /** NOT_STARTED until the agent says so: a small number keeps the object small. */
  startedAt = NOT_STARTED;
  previous: Entry | undefined = undefined;
  next: Entry | undefined = undefined;

  constructor(
    readonly share: Share,
    /** Of a span the first one's. */
    public index: number,
    readonly generation: number,
    /** As they were when it was assigned; of a copied task they follow what the other attempt added. */
    public failures: number,
    public losses: number,
    readonly assignedAtMs: number,
  ) {}

  /** Index of the task behind its last. */
  get after(): number {
    return this.index + this.size;
  }
  get job(): number {
    return this.share.account.job;
  }
  get node(): number {
    return this.share.home.seq;
  }
  get kind(): Kind {
    return this.share.account.kind;
  }
  get submitter(): string {
    return this.share.account.submitter;
  }
  get startedAtMs(): number | undefined {
    return this.startedAt === NOT_STARTED ? undefined : this.startedAt;
  }
}

/** Doubly linked through the entries themselves: removal from the middle without a search. */
export class List {
  first: Entry | undefined = undefined;
  last: Entry | undefined = undefined;
  /** Attempts. */
  size = 0;

  append(entry: Entry): void {
    entry.previous = this.last;
    entry.next = undefined;
    if (this.last) this.last.next = entry;
    else this.first = entry;
    this.last = entry;
    this.size += entry.size;
  }

  /** Right before or behind one that is in the list; the size is the caller's affair. */
  insert(entry: Entry, where: 'before' | 'after', other: Entry): void {
    entry.previous = where === 'before' ? other.previous : other;
    entry.next = where === 'before' ? other : other.next;
    if (entry.previous) entry.previous.next = entry;
    else this.first = entry;
    if (entry.next) entry.next.previous = entry;
    else this.last = entry;
  }

  remove(entry: Entry): void {
    if (entry.previous) entry.previous.next = entry.next;
    else this.first = entry.next;
    if (entry.next) entry.next.previous = entry.previous;
    else this.last = entry.previous;
    entry.previous = entry.next = undefined;
    this.size -= entry.size;
  }
}
