/**
 * The live attempts of one job. Successive fresh ones that wait on one node are one span, found by bisection; whoever asks
 * for one of them by itself gets an entry of its own, which is carved out of its span in place. So there is an object for
 * each attempt that anything is special about, and one for all that only wait.
 */
import { Entry } from './live-attempt.js';
import type { Cost, Kind } from './scheduler/types.js';

export class JobAccount {
  /** Those with an entry of their own, by index; the later one of two attempts of a task. */
  readonly entries = new Map<number, Entry>();
  /** By index: attempts that were set aside for a copy and live on. Most jobs never have any. */
  originals: Map<number, Entry> | undefined = undefined;
  /** Attempts that are none of their task's any more and hold their room until their agent has killed them. */
  condemned = 0;
  /** In order; no index is in two of them, nor in one of them and in `entries`. */
  #spans: Entry[] = [];
  #waiting = 0;
  /** Behind every index that was ever here. */
  #end = 0;

  constructor(
    readonly job: number,
    readonly kind: Kind,
    readonly cost: Cost,
    readonly submitter: string,
  ) {}

  /** Live attempts. */
  get held(): number {
    return this.entries.size + this.#waiting + (this.originals?.size ?? 0);
  }

  get isEmpty(): boolean {
    return this.held === 0 && this.condemned === 0;
  }

  get spans(): readonly Entry[] {
    return this.#spans;
  }

  /** Attempts with an entry of their own, in no order. A copy. */
  singles(): Entry[] {
    return [...this.entries.values(), ...(this.originals?.values() ?? [])];
  }

  /** Whether nothing from this index on was ever here. */
  isFreshFrom(index: number): boolean {
    return index >= this.#end;
  }

  put(entry: Entry): void {
    this.entries.set(entry.index, entry);
    this.#end = Math.max(this.#end, entry.after);
  }

  /** @param span behind all others; in its node's list of those that wait, or about to be */
  putSpan(span: Entry): void {
    this.#spans.push(span);
    this.#waiting += span.size;
    this.#end = Math.max(this.#end, span.after);
  }

  has(index: number): boolean {
    return this.entries.has(index) || this.spanOf(index) !== undefined;
  }

  spanOf(index: number): Entry | undefined {
    const span = this.#spans[this.#placeOf(index)];
    return span && span.index <= index ? span : undefined;
  }

  /** The entry of its own, which it gets if it is in a span. */
  get(index: number): Entry | undefined {
    const entry = this.entries.get(index);
    if (entry || this.#spans.length === 0) return entry;
    const span = this.spanOf(index);
    return span && this.carve(span, index);
  }

  /** Gives an attempt of a span an entry of its own, in the same place of its node's list. */
  carve(span: Entry, index: number): Entry {
    const { waiting } = span.share.home;
    const entry = this.#part(span, index);
    const rest = span.after - index - 1;
    if (index === span.index) {
      waiting.insert(entry, 'before', span);
      span.index++;
      span.size--;
    } else {
      waiting.insert(entry, 'after', span);
      if (rest > 0) this.#split(span, entry, rest);
      span.size -= 1 + rest;
    }
    this.#waiting--;
    this.entries.set(index, entry);
    if (span.size === 0) this.#remove(span);
    return entry;
  }

  /** Takes successive attempts out of a span, from where it begins or behind that; its node's account is the caller's affair. */
  cut(span: Entry, from: number, to: number): void {
    const { waiting } = span.share.home;
    const rest = span.after - to;
    waiting.size -= to - from;
    this.#waiting -= to - from;
    if (from === span.index) {
      span.index = to;
      span.size = rest;
    } else {
      if (rest > 0) this.#split(span, span, rest);
      span.size = from - span.index;
    }
    if (span.size === 0) this.#remove(span);
  }

  /** Gives all of them entries of their own. */
  unfold(span: Entry): void {
    for (let index = span.index, { after } = span; index < after; index++) this.carve(span, index);
  }

  #part({ share, generation, failures, losses, assignedAtMs }: Entry, index: number): Entry {
    return new Entry(share, index, generation, failures, losses, assignedAtMs);
  }

  /** The last `rest` of a span become another one, behind `behind` in the list. */
  #split(span: Entry, behind: Entry, rest: number): void {
    const part = this.#part(span, span.after - rest);
    part.isSpan = true;
    part.size = rest;
    span.share.home.waiting.insert(part, 'after', behind);
    this.#spans.splice(this.#spans.indexOf(span) + 1, 0, part);
  }

  /** It is empty. */
  #remove(span: Entry): void {
    span.share.home.waiting.remove(span);
    this.#spans.splice(this.#spans.indexOf(span), 1);
  }

  /** Of the first span that does not end before this index. */
  #placeOf(index: number): number {
    let [low, high] = [0, this.#spans.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#spans[middle] as Entry).after <= index) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
