/** Whether a process lives. One that is dead and only not yet waited for by its parent does not: its files are free. */
import { readFileSync } from 'node:fs';
import { systemCode } from './errors.js';

export const isAlive = (pid: number): boolean => startTimeOf(pid) !== '';

/** When a process started, in the system's own units; 'unknown' where only its existence can be told; '' when gone. */
export function startTimeOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // pid (name) state …: the name may hold spaces and parentheses.
    const [state = '', ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (state === 'Z' || state === 'X') return '';
    return fields[18] ?? 'unknown';
  } catch {
    try {
      process.kill(pid, 0);
      return 'unknown';
    } catch (error) {
      return systemCode(error) === 'EPERM' ? 'unknown' : '';
    }
  }
}
