/** CPU time of processes, as the kernel counts it. Linux only. */
import { readdirSync } from 'node:fs';
import { pause, systemClock } from '../common/clock.js';
import { statFields } from '../common/process-life.js';

/** The kernel's unit in /proc: USER_HZ, which is 100 on every Linux there is. */
const TICKS_A_SECOND = 100;

/** Milliseconds of CPU a process has used, and its ended children that it has waited for. @throws when it has gone */
export function cpuMs(pid: number): { own: number; endedChildren: number } {
  const fields = statFields(pid);
  const ms = (from: number): number => ((Number(fields[from]) + Number(fields[from + 1])) * 1000) / TICKS_A_SECOND;
  return { own: ms(11), endedChildren: ms(13) };
}

/** Of a process and everything below it: of PostgreSQL its server and one process for each connection. */
export function treeCpuMs(pid: number): number {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const parent = Number(statFields(Number(name))[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    } catch {
      // It has ended since the folder was read.
    }
  }
  const sum = (process: number): number => {
    try {
      const { own, endedChildren } = cpuMs(process);
      return own + endedChildren + (children.get(process) ?? []).reduce((total, child) => total + sum(child), 0);
    } catch {
      return 0;
    }
  };
  return sum(pid);
}

/** Percent of one core that `read` went up by in a while. */
export async function cpuShare(forMs: number, reads: readonly (() => number)[]): Promise<number[]> {
  const [before, fromMs] = [reads.map((read) => read()), systemClock.monotonicMs()];
  await pause(systemClock, forMs);
  const elapsedMs = systemClock.monotonicMs() - fromMs;
  return reads.map((read, index) => ((read() - (before[index] as number)) * 100) / elapsedMs);
}
