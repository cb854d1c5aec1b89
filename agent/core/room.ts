import type { Resources } from '../../proto/gen/mesh/v1/common.js';

/** What this node has to give. `slots` bounds how many launches run, whatever they ask. */
export interface RoomTotal {
  slots: number;
  cpuMillis: number;
  memoryBytes: number;
  gpus: number;
  custom: Readonly<Record<string, number>>;
}

/** What one launch holds; zero means nothing asked. */
export interface Demand {
  cpuMillis: number;
  memoryBytes: number;
  gpus: number;
  custom: readonly (readonly [string, number])[];
  /** Equal for equal demands. */
  key: string;
}

export function demandOf(resources: Resources | undefined): Demand {
  const custom = Object.entries(resources?.custom ?? {})
    .filter(([, amount]) => amount > 0)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  // As the coordinator counts: a task that says nothing takes one CPU.
  const cpuMillis = resources?.cpuMillis || 1000;
  const memoryBytes = resources?.memoryBytes ?? 0;
  const gpus = resources?.gpus ?? 0;
  return { cpuMillis, memoryBytes, gpus, custom, key: JSON.stringify([cpuMillis, memoryBytes, gpus, custom]) };
}

/**
 * What is free on this node (invariant I7). Taken when a launch starts, given back when nothing of it runs any more,
 * the dying included; prefilled tasks hold none.
 */
export class Room {
  readonly total: RoomTotal;
  #slots: number;
  #cpuMillis: number;
  #memoryBytes: number;
  readonly #gpus: number[];
  readonly #custom: Map<string, number>;

  constructor(total: RoomTotal) {
    this.total = total;
    this.#slots = total.slots;
    this.#cpuMillis = total.cpuMillis;
    this.#memoryBytes = total.memoryBytes;
    this.#gpus = Array.from({ length: total.gpus }, (_, index) => index);
    this.#custom = new Map(Object.entries(total.custom));
  }

  get slotsHeld(): number {
    return this.total.slots - this.#slots;
  }

  /** Why this demand can never be met here; undefined when it can once enough is free. */
  impossible(demand: Demand): string | undefined {
    const { total } = this;
    if (demand.cpuMillis > total.cpuMillis)
      return `asks for ${demand.cpuMillis / 1000} CPUs, this node has ${total.cpuMillis / 1000}`;
    if (demand.memoryBytes > total.memoryBytes)
      return `asks for ${demand.memoryBytes} bytes of memory, this node has ${total.memoryBytes}`;
    if (demand.gpus > total.gpus) return `asks for ${demand.gpus} GPUs, this node has ${total.gpus}`;
    for (const [name, amount] of demand.custom) {
      const has = Object.hasOwn(total.custom, name) ? (total.custom[name] ?? 0) : 0;
      if (amount > has) return `asks for ${amount} of ${name}, this node has ${has}`;
    }
    return undefined;
  }

  fits(demand: Demand): boolean {
    return (
      this.#slots >= 1 &&
      demand.cpuMillis <= this.#cpuMillis &&
      demand.memoryBytes <= this.#memoryBytes &&
      demand.gpus <= this.#gpus.length &&
      demand.custom.every(([name, amount]) => amount <= (this.#custom.get(name) ?? 0))
    );
  }

  /** Returns the GPU indexes allotted. Only after `fits`. */
  take(demand: Demand): number[] {
    this.#move(demand, -1);
    return this.#gpus.splice(0, demand.gpus);
  }

  give(demand: Demand, gpus: readonly number[]): void {
    this.#move(demand, 1);
    this.#gpus.push(...gpus);
    this.#gpus.sort((a, b) => a - b);
  }

  #move(demand: Demand, sign: 1 | -1): void {
    this.#slots += sign;
    this.#cpuMillis += sign * demand.cpuMillis;
    this.#memoryBytes += sign * demand.memoryBytes;
    for (const [name, amount] of demand.custom) this.#custom.set(name, (this.#custom.get(name) ?? 0) + sign * amount);
  }
}
