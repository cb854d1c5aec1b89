/** The ledger's records: one small object for each live attempt, linked into its node's lists. */
import type { Space } from './room.js';
import type { Cost, Kind, Room } from './scheduler/types.js';
import type { TaskRef } from './task.js';

/** One assigned attempt, as the ledger lends it out: read it, keep it only as long as it is in the ledger. */
export interface LiveAttempt extends TaskRef {
  readonly node: number;
  readonly failures: number;
  readonly losses: number;
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

export interface JobAccount {
  job: number;
  kind: Kind;
  cost: Cost;
  submitter: string;
  entries: Map<number, Entry>;
  /** By index: attempts that were set aside for a copy and live on. Most jobs never have any. */
  originals: Map<number, Entry> | undefined;
  /** Attempts that are none of their task's any more and hold their room until their agent has killed them. */
  condemned: number;
}

/** The attempts of one job on one node. */
export interface Share {
  account: JobAccount;
  home: NodeAccount;
  holding: number;
  waiting: number;
  /** Of those waiting: asked back already. */
  retracting: number;
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

export class Entry implements LiveAttempt {
  holding = false;
  retracting = false;
  condemned = false;
  /** NOT_STARTED until the agent says so: a small number keeps the object small. */
  startedAt = NOT_STARTED;
  previous: Entry | undefined = undefined;
  next: Entry | undefined = undefined;

  constructor(
    readonly share: Share,
    readonly index: number,
    readonly generation: number,
    /** As they were when it was assigned; of a copied task they follow what the other attempt added. */
    public failures: number,
    public losses: number,
    readonly assignedAtMs: number,
  ) {}

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
  size = 0;

  append(entry: Entry): void {
    entry.previous = this.last;
    entry.next = undefined;
    if (this.last) this.last.next = entry;
    else this.first = entry;
    this.last = entry;
    this.size++;
  }

  remove(entry: Entry): void {
    if (entry.previous) entry.previous.next = entry.next;
    else this.first = entry.next;
    if (entry.next) entry.next.previous = entry.previous;
    else this.last = entry.previous;
    entry.previous = entry.next = undefined;
    this.size--;
  }
}
