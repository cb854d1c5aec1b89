/**
 * Finds secrets in what a task prints and puts `***` in their place, however the output is cut into pieces.
 *
 * An Aho-Corasick automaton over all patterns reads each byte once. Its state is the longest end of the output so far that
 * begins some pattern: those bytes, and no others, are held back until they have become a match or cannot any more. They
 * are a prefix of a pattern, so not even a copy of them is kept. Every byte that belongs to any occurrence of any pattern
 * is masked, overlapping ones too; occurrences that touch make one `***`.
 *
 * Time is linear in the output (every step down the tree pays for one along the failure links), whatever it holds and
 * however it is cut; memory is that of the automaton, about 25 bytes for each byte of the patterns.
 *
 * What is held back when the output ends is masked as well if it is PREFIX_MIN bytes or more: the rest of it may have been
 * cut off by a bound or a kill. It is never let through by the passing of time.
 */
export const MASKED = '***';
const MASKED_BYTES = Buffer.from(MASKED);
const NOTHING = new Uint8Array(0);
/** A shorter beginning of a secret at the very end of the output is let through. */
export const PREFIX_MIN = 4;

export class Mask {
  readonly #patterns: readonly Uint8Array[];
  /** Of each node but the root: the byte that leads to it. Children are linked as siblings. */
  readonly #byte: Uint8Array;
  readonly #child: Int32Array;
  readonly #sibling: Int32Array;
  readonly #fail: Int32Array;
  /** Bytes from the root, and a pattern that begins with them. */
  readonly depth: Int32Array;
  readonly #pattern: Int32Array;
  /** Length of the longest pattern that ends here; 0 for none. */
  readonly longest: Int32Array;
  /** The root's children by byte: nearly all output stays at the root. */
  readonly #first = new Int32Array(256);

  /** @param patterns none of them empty */
  constructor(patterns: readonly Uint8Array[]) {
    this.#patterns = patterns;
    const nodesMax = patterns.reduce((sum, pattern) => sum + pattern.length, 1);
    this.#byte = new Uint8Array(nodesMax);
    const column = () => new Int32Array(nodesMax);
    [this.#child, this.#sibling, this.#fail] = [column(), column(), column()];
    [this.depth, this.#pattern, this.longest] = [column(), column(), column()];
    let nodes = 1;
    patterns.forEach((pattern, number) => {
      let node = 0;
      for (const byte of pattern) {
        let next = this.#find(node, byte);
        if (next === 0) {
          next = nodes++;
          this.#byte[next] = byte;
          this.depth[next] = (this.depth[node] as number) + 1;
          this.#pattern[next] = number;
          if (node === 0) this.#first[byte] = next;
          else {
            this.#sibling[next] = this.#child[node] as number;
            this.#child[node] = next;
          }
        }
        node = next;
      }
      this.longest[node] = pattern.length;
    });
    this.#link();
  }

  /** Failure links, breadth first: those of shorter prefixes are there when a longer one needs them. */
  #link(): void {
    let level = [...this.#first].filter((node) => node !== 0);
    while (level.length > 0) {
      const next: number[] = [];
      for (const node of level) {
        this.longest[node] ||= this.longest[this.#fail[node] as number] as number;
        for (let child = this.#child[node] as number; child !== 0; child = this.#sibling[child] as number) {
          this.#fail[child] = this.step(this.#fail[node] as number, this.#byte[child] as number);
          next.push(child);
        }
      }
      level = next;
    }
  }

  #find(node: number, byte: number): number {
    if (node === 0) return this.#first[byte] as number;
    let child = this.#child[node] as number;
    while (child !== 0 && this.#byte[child] !== byte) child = this.#sibling[child] as number;
    return child;
  }

  /** The state after one more byte. */
  step(state: number, byte: number): number {
    for (let node = state; ; node = this.#fail[node] as number) {
      const next = this.#find(node, byte);
      if (next !== 0 || node === 0) return next;
    }
  }

  /** Nothing longer begins where this match did: what may still become another one begins later. */
  afterMatch(state: number): number {
    let node = state;
    while (node !== 0 && this.#child[node] === 0) node = this.#fail[node] as number;
    return node;
  }

  /** The bytes that lead to a state. */
  prefix(state: number): Uint8Array {
    const pattern = this.#patterns[this.#pattern[state] as number];
    return pattern?.subarray(0, this.depth[state] as number) ?? NOTHING;
  }

  /** A whole text, which may have been cut off at its end. */
  text(text: string): string {
    const stream = new MaskStream(this);
    return Buffer.concat([stream.write(Buffer.from(text)), stream.end()]).toString();
  }
}

/** One output on its way through a mask. */
export class MaskStream {
  #state = 0;
  /** Position in the output of the first byte that is held back. */
  #from = 0;
  /** What is to be masked from there on: starts and ends, ascending and apart. */
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  /** The last byte that was let go is behind a `***`. */
  #masking = false;

  constructor(private readonly mask: Mask) {}

  /** What may be seen now of everything written so far. */
  write(data: Uint8Array): Buffer {
    const { mask } = this;
    const held = mask.prefix(this.#state);
    const base = this.#from + held.length;
    let state = this.#state;
    for (let i = 0; i < data.length; i++) {
      state = mask.step(state, data[i] as number);
      const longest = mask.longest[state] as number;
      if (longest === 0) continue;
      this.#mark(base + i + 1 - longest, base + i + 1);
      state = mask.afterMatch(state);
    }
    this.#state = state;
    return this.#release(held, data, base + data.length - (mask.depth[state] as number));
  }

  /** The rest. */
  end(): Buffer {
    const held = this.mask.prefix(this.#state);
    const end = this.#from + held.length;
    this.#state = 0;
    if (held.length >= PREFIX_MIN) this.#mark(this.#from, end);
    return this.#release(held, NOTHING, end);
  }

  #mark(start: number, end: number): void {
    let from = start;
    while (this.#ends.length > 0 && (this.#ends.at(-1) as number) >= from) {
      from = Math.min(from, this.#starts.pop() as number);
      this.#ends.pop();
    }
    this.#starts.push(from);
    this.#ends.push(end);
  }

  /** Everything before `to`; what was held back comes first. */
  #release(held: Uint8Array, data: Uint8Array, to: number): Buffer {
    const from = this.#from;
    const pieces: Uint8Array[] = [];
    const show = (start: number, end: number) => {
      if (end <= start) return;
      this.#masking = false;
      const [a, b, middle] = [start - from, end - from, held.length];
      if (a < middle) pieces.push(held.subarray(a, Math.min(b, middle)));
      if (b > middle) pieces.push(data.subarray(Math.max(0, a - middle), b - middle));
    };
    let at = from;
    let done = 0;
    for (; done < this.#starts.length && (this.#starts[done] as number) < to; done++) {
      const end = this.#ends[done] as number;
      show(at, this.#starts[done] as number);
      if (!this.#masking) pieces.push(MASKED_BYTES);
      this.#masking = true;
      at = Math.min(end, to);
      if (end > to) {
        this.#starts[done] = to;
        break;
      }
    }
    show(at, to);
    if (done > 0) {
      this.#starts.splice(0, done);
      this.#ends.splice(0, done);
    }
    this.#from = to;
    return Buffer.concat(pieces);
  }
}
