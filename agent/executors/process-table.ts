/**
 * What runs on this machine, read from /proc. Where there is no /proc everything here finds nothing, and only process
 * groups are killed.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { statFields } from '../../common/process-life.js';
import { COOKIE_VARIABLE } from './environment.js';

export interface ProcessEntry {
  pid: number;
  parent: number;
  group: number;
  /** Clock ticks since boot; with the pid it names a process for good. */
  startTicks: number;
  threads: number;
  zombie: boolean;
}

export function readProcess(pid: number): ProcessEntry | undefined {
  try {
    const fields = statFields(pid);
    const state = fields[0] ?? 'X';
    return {
      pid,
      parent: Number(fields[1]),
      group: Number(fields[2]),
      startTicks: Number(fields[19]),
      threads: Number(fields[17]),
      zombie: state === 'Z' || state === 'X',
    };
  } catch {
    return undefined;
  }
}

export function readProcesses(): ProcessEntry[] {
  return readPids().flatMap((pid) => readProcess(pid) ?? []);
}

export function readPids(): number[] {
  try {
    return readdirSync('/proc')
      .map(Number)
      .filter((pid) => pid > 0);
  } catch {
    return [];
  }
}

const KEY = Buffer.from(`${COOKIE_VARIABLE}=`);

/** The cookie a process was started with; undefined when it has none or its environment may not be read. */
export function readCookie(pid: number): string | undefined {
  let environment: Buffer;
  try {
    environment = readFileSync(`/proc/${pid}/environ`);
  } catch {
    return undefined;
  }
  for (let at = environment.indexOf(KEY); at >= 0; at = environment.indexOf(KEY, at + 1)) {
    if (at > 0 && environment[at - 1] !== 0) continue;
    const end = environment.indexOf(0, at);
    return environment.toString('latin1', at + KEY.length, end < 0 ? undefined : end);
  }
  return undefined;
}

/** Resident size of a process, the largest it has had and that of now; undefined when it is gone. */
export function readMemory(pid: number): { peakBytes: number; residentBytes: number } | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1');
    const [peakBytes, residentBytes] = [kilobytes(status, 'VmHWM'), kilobytes(status, 'VmRSS')];
    return peakBytes === undefined || residentBytes === undefined ? undefined : { peakBytes, residentBytes };
  } catch {
    return undefined;
  }
}

/** Its share of the memory it uses: what several processes share is split among them. Undefined where it can't be read. */
export function readShareBytes(pid: number): number | undefined {
  try {
    return kilobytes(readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1'), 'Pss');
  } catch {
    return undefined;
  }
}

function kilobytes(text: string, name: string): number | undefined {
  const match = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text);
  return match ? Number(match[1]) * 1024 : undefined;
}

/** The given processes and all below them, by parent. */
export function withDescendants(table: readonly ProcessEntry[], roots: ReadonlySet<number>): ProcessEntry[] {
  const children = new Map<number, ProcessEntry[]>();
  for (const entry of table) {
    const siblings = children.get(entry.parent);
    if (siblings) siblings.push(entry);
    else children.set(entry.parent, [entry]);
  }
  const found = table.filter((entry) => roots.has(entry.pid));
  const seen = new Set(found.map((entry) => entry.pid));
  for (let i = 0; i < found.length; i++) {
    for (const child of children.get((found[i] as ProcessEntry).pid) ?? []) {
      if (seen.has(child.pid)) continue;
      seen.add(child.pid);
      found.push(child);
    }
  }
  return found;
}

/** True when the signal was sent. A process that is gone, or that may not be signalled, is not an error. */
export function sendSignal(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
}
