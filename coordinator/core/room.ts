/**
 * Arithmetic on what nodes have and tasks take. A task takes one slot, and one CPU when it asks for nothing, so that
 * tasks without a wish fill a machine exactly once.
 */
import type { Capabilities, Resources } from '../../proto/gen/mesh/v1/common.js';
import type { Cost, Room } from './scheduler/types.js';

/** What a task takes that says nothing about CPUs. */
export const CPU_MILLIS_DEFAULT = 1000;

export function costOf(resources: Resources): Cost {
  return {
    cpuMillis: resources.cpuMillis || CPU_MILLIS_DEFAULT,
    memoryBytes: resources.memoryBytes,
    gpus: resources.gpus,
    custom: Object.entries(resources.custom)
      .filter(([, amount]) => amount > 0)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  };
}

/**
 * What a node offers. More slots than CPUs is its owner's decision to overcommit, so CPUs then count as many as slots;
 * fewer slots than CPUs leaves the CPUs to tasks that ask for several.
 */
export function roomOf(capabilities: Capabilities): Room {
  return {
    slots: capabilities.slots,
    cpuMillis: Math.max(capabilities.cpus, capabilities.slots) * 1000,
    memoryBytes: capabilities.memoryBytes,
    gpus: capabilities.gpus.length,
    custom: new Map(Object.entries(capabilities.custom)),
  };
}

export const NO_ROOM: Room = { slots: 0, cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: new Map() };

/** How many tasks of this cost fit; 0 also for a room that is overdrawn. */
export function fitCount(room: Room, cost: Cost): number {
  let count = Math.min(room.slots, Math.floor(room.cpuMillis / cost.cpuMillis));
  if (cost.memoryBytes > 0) count = Math.min(count, Math.floor(room.memoryBytes / cost.memoryBytes));
  if (cost.gpus > 0) count = Math.min(count, Math.floor(room.gpus / cost.gpus));
  for (const [name, amount] of cost.custom) count = Math.min(count, Math.floor((room.custom.get(name) ?? 0) / amount));
  return Math.max(0, count);
}

/**
 * Whether a task is large for a machine: it takes more CPU or memory than one slot's share, so the end of one ordinary
 * task does not make room for it, and a stream of small ones could keep it waiting for ever.
 */
export function isLarge(cost: Cost, total: Room): boolean {
  return cost.cpuMillis > CPU_MILLIS_DEFAULT || (total.slots > 0 && cost.memoryBytes > total.memoryBytes / total.slots);
}

/** A room that tasks are taken from and given back to. May be overdrawn when a node started more than was thought. */
export class Space implements Room {
  slots: number;
  cpuMillis: number;
  memoryBytes: number;
  gpus: number;
  custom: ReadonlyMap<string, number>;
  #ownsCustom = false;

  constructor(room: Room) {
    this.slots = room.slots;
    this.cpuMillis = room.cpuMillis;
    this.memoryBytes = room.memoryBytes;
    this.gpus = room.gpus;
    this.custom = room.custom;
  }

  take(cost: Cost, count = 1): void {
    this.slots -= count;
    this.cpuMillis -= cost.cpuMillis * count;
    this.memoryBytes -= cost.memoryBytes * count;
    this.gpus -= cost.gpus * count;
    if (cost.custom.length > 0) this.#takeCustom(cost, count);
  }

  give(cost: Cost, count = 1): void {
    this.take(cost, -count);
  }

  /** The map is shared with the room this one was made from until it is first written. */
  #takeCustom(cost: Cost, count: number): void {
    const custom = this.#ownsCustom ? (this.custom as Map<string, number>) : new Map(this.custom);
    for (const [name, amount] of cost.custom) custom.set(name, (custom.get(name) ?? 0) - amount * count);
    this.custom = custom;
    this.#ownsCustom = true;
  }
}
