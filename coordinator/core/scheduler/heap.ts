/** Counts steps, so that a test can state how planning grows without a clock. */
export interface Meter {
  operations: number;
}

/**
 * A binary min-heap of small integers by key; equal keys go by the integer, so that plans are deterministic. Many at once
 * are best added and put in order together, in linear time; the first is best given a new key in place.
 */
export class Heap {
  readonly #items: number[] = [];
  readonly #keys: number[] = [];

  constructor(readonly meter: Meter) {}

  get size(): number {
    return this.#items.length;
  }

  /** Adds without putting in order: nothing else may be asked before `order`. */
  add(item: number, key: number): void {
    this.#items.push(item);
    this.#keys.push(key);
    this.meter.operations++;
  }

  order(): void {
    for (let at = (this.#items.length >> 1) - 1; at >= 0; at--)
      this.#sink(at, this.#items[at] as number, this.#keys[at] as number);
  }

  push(item: number, key: number): void {
    const items = this.#items;
    const keys = this.#keys;
    let at = items.length;
    items.push(item);
    keys.push(key);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = keys[parent] as number;
      if (above < key || (above === key && (items[parent] as number) < item)) break;
      items[at] = items[parent] as number;
      keys[at] = above;
      at = parent;
    }
    items[at] = item;
    keys[at] = key;
    this.meter.operations++;
  }

  /** The item with the lowest key, without taking it. */
  peek(): number | undefined {
    return this.#items[0];
  }

  pop(): number | undefined {
    const first = this.#items[0];
    const last = this.#items.pop();
    const key = this.#keys.pop();
    if (last === undefined || key === undefined) return undefined;
    if (this.#items.length > 0) this.#sink(0, last, key);
    this.meter.operations++;
    return first;
  }

  /** Gives the first item another key. */
  rekey(key: number): void {
    this.#sink(0, this.#items[0] as number, key);
    this.meter.operations++;
  }

  /** Puts an item where it belongs at `at` or below. */
  #sink(from: number, item: number, key: number): void {
    const items = this.#items;
    const keys = this.#keys;
    const size = items.length;
    let at = from;
    let steps = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      let least = keys[child] as number;
      const right = child + 1;
      if (right < size) {
        const other = keys[right] as number;
        if (other < least || (other === least && (items[right] as number) < (items[child] as number))) {
          child = right;
          least = other;
        }
      }
      if (key < least || (key === least && item < (items[child] as number))) break;
      items[at] = items[child] as number;
      keys[at] = least;
      at = child;
      steps++;
    }
    items[at] = item;
    keys[at] = key;
    this.meter.operations += steps;
  }
}
