import { cpus, freemem } from 'node:os';

/** How busy the machine is, for the heartbeat. */
export interface LoadSource {
  /** The busy share of the whole machine since the last call, 0 to 1. */
  measure(): number;
  memoryFreeBytes(): number;
}

/** The busy share of the whole machine since the last call, from the kernel's counters; 0 at the first call. */
export class LoadMeter implements LoadSource {
  #busy = 0;
  #total = 0;

  memoryFreeBytes(): number {
    return freemem();
  }

  measure(): number {
    let busy = 0;
    let total = 0;
    for (const { times } of cpus()) {
      const all = times.user + times.nice + times.sys + times.idle + times.irq;
      busy += all - times.idle;
      total += all;
    }
    const share = this.#total > 0 && total > this.#total ? (busy - this.#busy) / (total - this.#total) : 0;
    this.#busy = busy;
    this.#total = total;
    return Math.min(1, Math.max(0, share));
  }
}
