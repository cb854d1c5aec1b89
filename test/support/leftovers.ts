/** What a test left running on this machine: found through /proc, by marks that only its own processes bear. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { isAlive } from '../../common/process-life.js';

export interface Leftover {
  pid: number;
  command: string;
}

export interface Marks {
  /** A `NAME=value` that every program of the test was started with; what they start inherits it. */
  variable: string;
  /** Folders that the working directory of a task can be in: tasks inherit no environment. */
  folders: readonly string[];
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

/** Processes that bear a mark, this one and the dead that nobody waited for yet left out. */
export function findLeftovers({ variable, folders }: Marks): Leftover[] {
  if (process.platform !== 'linux') return [];
  const found: Leftover[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const marked = attempt(() => readFileSync(`/proc/${name}/environ`, 'latin1'))
      ?.split('\0')
      .includes(variable);
    const inside = attempt(() => readlinkSync(`/proc/${name}/cwd`));
    if (!marked && !folders.some((folder) => inside?.startsWith(folder))) continue;
    if (!isAlive(Number(name))) continue;
    const command = attempt(() => readFileSync(`/proc/${name}/cmdline`, 'latin1')) ?? '';
    found.push({ pid: Number(name), command: command.replaceAll('\0', ' ').trim() });
  }
  return found;
}

export function killAll(leftovers: readonly Leftover[]): void {
  for (const { pid } of leftovers) attempt(() => process.kill(pid, 'SIGKILL'));
}

/** Resident memory of a process in bytes, and the most it ever was. */
export function residentBytes(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1] ?? 0) * 1024;
  return { now: field('VmRSS'), peak: field('VmHWM') };
}

/** Kills what bears a mark and removes the folder, once its standard input ends without a word. */
const UNDERTAKER = `
read -r word && exit 0
for entry in /proc/[0-9]*; do
  [ "$entry" = "/proc/$$" ] && continue
  case "$(readlink "$entry/cwd" 2>/dev/null)" in "$2"*) kill -9 "\${entry#/proc/}" 2>/dev/null; continue ;; esac
  grep -qszxF "$1" "$entry/environ" 2>/dev/null && kill -9 "\${entry#/proc/}" 2>/dev/null
done
rm -rf "$2"
`;

/**
 * A process that outlives the test process when that one is killed (tap does so at its time limit), and then does what
 * the teardown could not. @returns how to send it away
 */
export function watchOver(variable: string, folder: string): () => void {
  const child = spawn('sh', ['-c', UNDERTAKER, 'sh', variable, folder], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  child.unref();
  child.stdin.on('error', () => undefined);
  (child.stdin as unknown as { unref(): void }).unref();
  return () => child.stdin.end('done\n');
}
