/**
 * What one attempt may use at most: what its job asked for, and never more than the node allows. Files, open files and
 * CPU time are limits of the system on each process (setrlimit). Processes are counted by the system where the task has
 * a user namespace of its own; elsewhere that count would be shared by everything its user runs, so the tree is looked
 * at. Memory belongs to the whole tree, which no such limit covers: it is looked at, too.
 */
import type { Limits, Resources } from '../../../proto/gen/mesh/v1/common.js';

/** Zero means no bound. */
export interface Bounds {
  memoryBytes: number;
  processes: number;
  openFiles: number;
  fileSizeBytes: number;
  cpuTimeMs: number;
}

export const UNBOUNDED: Bounds = { memoryBytes: 0, processes: 0, openFiles: 0, fileSizeBytes: 0, cpuTimeMs: 0 };

/** Between the warning (SIGXCPU) and the end (SIGKILL). */
const CPU_GRACE_S = 5;
const BLOCK_BYTES = 512;

/** Seconds of CPU time until the warning and until the end. */
export function cpuLimits(cpuTimeMs: number): [soft: number, hard: number] {
  const softS = Math.ceil(cpuTimeMs / 1000);
  return [softS, softS + CPU_GRACE_S];
}

/** Shells count in these. */
export const fileBlocks = (bytes: number): number => Math.ceil(bytes / BLOCK_BYTES);
export const wholeBlocks = (bytes: number): number => fileBlocks(bytes) * BLOCK_BYTES;

/** The stricter of what was asked and what the node allows. */
export function boundsOf(resources: Resources | undefined, asked: Limits | undefined, node: Bounds): Bounds {
  return {
    memoryBytes: stricter(resources?.memoryBytes, node.memoryBytes),
    processes: stricter(asked?.processes, node.processes),
    openFiles: stricter(asked?.openFiles, node.openFiles),
    fileSizeBytes: stricter(asked?.fileSizeBytes, node.fileSizeBytes),
    cpuTimeMs: stricter(asked?.cpuTimeMs, node.cpuTimeMs),
  };
}

const stricter = (a: number | undefined, b: number): number => (a && b ? Math.min(a, b) : a || b);

/** Whether there is anything to set on a process that shares its user with others. */
export const needsLauncher = ({ openFiles, fileSizeBytes, cpuTimeMs }: Bounds): boolean =>
  openFiles > 0 || fileSizeBytes > 0 || cpuTimeMs > 0;

/**
 * Commands of a POSIX shell. A limit that cannot be set is already tighter than what is asked. The keeper in the
 * namespace counts as one process more.
 */
export function limitScript({ openFiles, fileSizeBytes, cpuTimeMs, processes }: Bounds, inNamespace: boolean): string {
  const [softS, hardS] = cpuLimits(cpuTimeMs);
  const commands = [
    'ulimit -c 0',
    ...(openFiles > 0 ? [`ulimit -n ${openFiles}`] : []),
    ...(fileSizeBytes > 0 ? [`ulimit -f ${fileBlocks(fileSizeBytes)}`] : []),
    ...(softS > 0 ? [`ulimit -H -t ${hardS}`, `ulimit -S -t ${softS}`] : []),
    // dash and busybox say -p, others -u.
    ...(processes > 0 && inNamespace ? [`{ ulimit -u ${processes + 1} || ulimit -p ${processes + 1}; }`] : []),
  ];
  return commands.map((command) => `${command} 2>/dev/null; `).join('');
}
