/** What people read when an attempt did not succeed. */
import { systemCode } from '../../common/errors.js';
import { formatDuration, formatSize } from '../../common/units.js';
import type { StopReason } from '../core/types.js';
import type { Bounds } from './sandbox/bounds.js';

/** `30 s`, not `30.0 s`: limits are round numbers that somebody gave. */
export const describeDuration = (ms: number): string => formatDuration(ms).replace('.0 ', ' ');

export function exitProblem(exitCode: number | undefined, signal: string | undefined): string {
  if (signal) return `killed by ${signal}`;
  return exitCode === undefined ? 'ended in an unknown way' : `exited with code ${exitCode}`;
}

const size = (bytes: number): string => formatSize(bytes).replace('.0 ', ' ');

/** A tree that is killed because of what it used. */
export const memoryProblem = (usedBytes: number, allowedBytes: number): string =>
  `killed: its processes used ${size(usedBytes)}, more than the ${size(allowedBytes)} allowed (--memory)`;

/** The kernel did it, at the bound. */
export const outOfMemoryProblem = (allowedBytes: number): string =>
  `killed: out of memory, its processes needed more than the ${size(allowedBytes)} allowed (--memory)`;

export const processesProblem = (count: number, allowed: number): string =>
  `killed: it had ${count} processes and threads, more than the ${allowed} allowed (--max-processes)`;

/** The bound behind a signal, or behind a failure at the bound; undefined when none explains the end. */
export function excessProblem(bounds: Bounds, signal: string | undefined, peakProcesses: number): string | undefined {
  if (signal === 'SIGXCPU' && bounds.cpuTimeMs > 0)
    return `killed by SIGXCPU: a process used the ${describeDuration(bounds.cpuTimeMs)} of CPU time allowed (--cpu-time)`;
  if (signal === 'SIGXFSZ' && bounds.fileSizeBytes > 0)
    return `killed by SIGXFSZ: a file grew beyond the ${size(bounds.fileSizeBytes)} allowed (--max-file-size)`;
  if (bounds.processes > 0 && peakProcesses >= bounds.processes)
    return `${signal ? `killed by ${signal}` : 'failed'} with ${peakProcesses} of the ${bounds.processes} processes and threads allowed (--max-processes)`;
  return undefined;
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
