/** What people read when an attempt did not succeed. */
import { systemCode } from '../../common/errors.js';
import { formatDuration } from '../../common/units.js';
import type { StopReason } from '../core/types.js';

/** `30 s`, not `30.0 s`: limits are round numbers that somebody gave. */
export const describeDuration = (ms: number): string => formatDuration(ms).replace('.0 ', ' ');

export function exitProblem(exitCode: number | undefined, signal: string | undefined): string {
  if (signal) return `killed by ${signal}`;
  return exitCode === undefined ? 'ended in an unknown way' : `exited with code ${exitCode}`;
}

const STOP_PROBLEMS: Record<StopReason, string> = {
  cancelled: 'cancelled',
  shutdown: 'the agent was stopped',
  fenced: 'killed because the coordinator was out of reach',
};

export const stopProblem = (reason: StopReason): string => STOP_PROBLEMS[reason];

/** As shells number them: not found, and found but not executable. */
const NOT_FOUND = 127;
const NOT_EXECUTABLE = 126;

/** A command that did not start: the task's own mistake has an exit code, the node's trouble has none. */
export function spawnProblem(error: unknown, command: string): { exitCode?: number; error: string } {
  const code = systemCode(error) ?? 'unknown error';
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return { exitCode: NOT_FOUND, error: `command not found: ${command} (or the interpreter it names)` };
    case 'EACCES':
    case 'EISDIR':
      return { exitCode: NOT_EXECUTABLE, error: `not allowed to execute: ${command}` };
    case 'ENOEXEC':
      return { exitCode: NOT_EXECUTABLE, error: `not an executable this node can run: ${command}` };
    case 'E2BIG':
      return { exitCode: NOT_EXECUTABLE, error: 'arguments and environment are too long for this node' };
    case 'ELOOP':
    case 'ENAMETOOLONG':
      return { exitCode: NOT_FOUND, error: `command not found: ${command.slice(0, 200)} (${code})` };
    case 'ERR_INVALID_ARG_VALUE':
      return { exitCode: NOT_EXECUTABLE, error: 'an argument or variable holds a NUL byte' };
    default:
      return { error: `the node could not start a process: ${code}` };
  }
}
