/** A process and everything below it, to be stopped and woken together, as a machine that sleeps stops them. */
import { readdirSync } from 'node:fs';
import { statFields } from '../../common/process-life.js';

function parentOf(pid: number): number | undefined {
  try {
    return Number(statFields(pid)[1]);
  } catch {
    return undefined;
  }
}

/** Everything that descends from a process, itself first. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const parent = parentOf(Number(name));
    if (parent !== undefined) children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
  }
  const found = [root];
  for (const pid of found) found.push(...(children.get(pid) ?? []));
  return found;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended.
  }
}

/** Stops a process and all below it. @returns what was stopped, to be woken */
export function freeze(root: number): number[] {
  const frozen = new Set<number>();
  // What was started while we looked is found in the next round.
  for (let grown = true; grown; ) {
    grown = false;
    for (const pid of processTree(root)) {
      if (frozen.has(pid)) continue;
      signal(pid, 'SIGSTOP');
      frozen.add(pid);
      grown = true;
    }
  }
  return [...frozen];
}

export function thaw(pids: readonly number[]): void {
  for (const pid of pids) signal(pid, 'SIGCONT');
}
