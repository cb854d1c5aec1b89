import { readFileSync } from 'node:fs';
import { pause, systemClock } from '../common/clock.js';

const KIB = 1024;

/** Resident memory of a process in bytes, now and at its highest. Linux only. @throws when the process has gone */
export function residentMemory(pid: number): { nowBytes: number; peakBytes: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => {
    const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status);
    if (!found) throw new Error(`no ${name} in /proc/${pid}/status`);
    return Number(found[1]) * KIB;
  };
  return { nowBytes: field('VmRSS'), peakBytes: field('VmHWM') };
}

export interface MemoryWatch {
  /** Bytes when the watch began, at the highest sample, and at the last one. */
  stop(): Promise<{ firstBytes: number; highestBytes: number; lastBytes: number }>;
}

/** Samples a process until it is stopped, or gone: that is for somebody else to notice. */
export function watchMemory(pid: number, everyMs = 100): MemoryWatch {
  const stopping = new AbortController();
  const firstBytes = residentMemory(pid).nowBytes;
  let highestBytes = firstBytes;
  let lastBytes = firstBytes;
  const sampling = (async () => {
    while (!stopping.signal.aborted) {
      await pause(systemClock, everyMs, stopping.signal);
      try {
        lastBytes = residentMemory(pid).nowBytes;
      } catch {
        return;
      }
      highestBytes = Math.max(highestBytes, lastBytes);
    }
  })();
  return {
    async stop() {
      stopping.abort();
      await sampling;
      return { firstBytes, highestBytes, lastBytes };
    },
  };
}

export const toMiB = (bytes: number): number => bytes / 2 ** 20;
