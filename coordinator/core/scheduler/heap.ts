/** Counts steps, so that a test can state how planning grows without a clock. */
export interface Meter {
  operations: number;
}

/** A binary min-heap of small integers by key; equal keys go by the integer, so that plans are deterministic. */
export class Heap {
  readonly #items: number[] = [];
  readonly #keys: number[] = [];

  constructor(readonly meter: Meter) {}

  get size(): number {
    return this.#items.length;
  }

  push(item: number, key: number): void {
    let at = this.#items.length;
    this.#items.push(item);
    this.#keys.push(key);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(at, parent)) break;
      this.#swap(at, parent);
      at = parent;
    }
    this.meter.operations++;
  }

  /** The item with the lowest key, without taking it. */
  peek(): number | undefined {
    return this.#items[0];
  }

  pop(): number | undefined {
    const item = this.#items[0];
    const last = this.#items.length - 1;
    if (item === undefined) return undefined;
    this.#swap(0, last);
    this.#items.pop();
    this.#keys.pop();
    for (let at = 0; ; ) {
      let least = at;
      const left = 2 * at + 1;
      if (left < last && this.#before(left, least)) least = left;
      if (left + 1 < last && this.#before(left + 1, least)) least = left + 1;
      if (least === at) break;
      this.#swap(at, least);
      at = least;
      this.meter.operations++;
    }
    this.meter.operations++;
    return item;
  }

  #before(a: number, b: number): boolean {
    const keyA = this.#keys[a] as number;
    const keyB = this.#keys[b] as number;
    return keyA < keyB || (keyA === keyB && (this.#items[a] as number) < (this.#items[b] as number));
  }

  #swap(a: number, b: number): void {
    const item = this.#items[a] as number;
    const key = this.#keys[a] as number;
    this.#items[a] = this.#items[b] as number;
    this.#keys[a] = this.#keys[b] as number;
    this.#items[b] = item;
    this.#keys[b] = key;
  }
}
