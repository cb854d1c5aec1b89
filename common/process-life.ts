/** Whether a process lives. One that is dead and only not yet waited for by its parent does not: its files are free. */
import { readFileSync } from 'node:fs';
import { systemCode } from './errors.js';

export const isAlive = (pid: number): boolean => startTimeOf(pid) !== '';

/**
 * Of /proc/PID/stat what comes after the name in parentheses, which may hold spaces and more of them: state, parent, …
 * @throws what the file system says, where there is no such process or no /proc
 */
export function statFields(pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** When a process started, in the system's own units; 'unknown' where only its existence can be told; '' when gone. */
export function startTimeOf(pid: number): string {
  try {
    const fields = statFields(pid);
    if (fields[0] === 'Z' || fields[0] === 'X') return '';
    return fields[19] ?? 'unknown';
  } catch {
    try {
      process.kill(pid, 0);
      return 'unknown';
    } catch (error) {
      return systemCode(error) === 'EPERM' ? 'unknown' : '';
    }
  }
}
