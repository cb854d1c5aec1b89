/**
 * What a sandboxed task sees of /etc: one folder of the agent's, shown whole. bubblewrap reads the table of mounts again
 * after each thing it shows, so that a file by itself costs more than all it says; in the folder are copies, which follow
 * the originals. Folders of the system are shown over empty ones in it: they may be large, and hold what is not for all.
 */
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, type Stats, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../../common/clock.js';
import type { WorkRoot } from '../workroot.js';

/** What programs need to run; nothing of it is secret or says who uses this machine. */
const FILES = [
  'ld.so.cache',
  'ld.so.conf',
  'localtime',
  'mime.types',
  'nsswitch.conf',
  'protocols',
  'services',
  'timezone',
];
const FOLDERS = ['alternatives', 'ca-certificates', 'crypto-policies', 'fonts', 'ld.so.conf.d', 'pki', 'ssl'];
/** A changed original is copied again before the first command after so long. */
const LOOK_MS = 1000;
const READABLE_BY_ALL = 0o004;

export class TaskEtc {
  readonly directory: string;
  readonly #system: string;
  readonly #clock: Clock;
  readonly #folders = new Set<string>();
  /** What was copied, as the original was then. */
  readonly #copied = new Map<string, Stats>();
  #lookedMs: number;

  /**
   * Makes the folder in the working directory of tasks.
   * @param system where the originals are
   * @throws what the file system says
   */
  constructor({ path, user }: Pick<WorkRoot, 'path' | 'user'>, clock: Clock, system = '/etc') {
    this.directory = join(path, 'etc');
    this.#system = system;
    this.#clock = clock;
    mkdirSync(this.directory);
    // Whatever the agent's umask says: tasks read it as somebody else.
    chmodSync(this.directory, 0o755);
    for (const [name, text] of Object.entries(own(user))) this.#write(name, text);
    this.#lookedMs = clock.monotonicMs();
    this.#look();
  }

  /** Folders of the system that are to be shown in it, by name. What has changed by now is copied again. */
  folders(): Iterable<string> {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#lookedMs >= LOOK_MS) {
      this.#lookedMs = nowMs;
      try {
        this.#look();
      } catch {
        // The disk may be full: what was copied before is as good as it was, and is looked at again.
      }
    }
    return this.#folders;
  }

  #look(): void {
    for (const name of FILES) this.#follow(name);
    for (const name of FOLDERS) {
      if (this.#folders.has(name) || !this.#stat(name)?.isDirectory()) continue;
      mkdirSync(join(this.directory, name), { recursive: true });
      this.#folders.add(name);
    }
  }

  #follow(name: string): void {
    const status = this.#stat(name);
    const before = this.#copied.get(name);
    if (!status?.isFile() || (status.mode & READABLE_BY_ALL) === 0) {
      if (before) rmSync(join(this.directory, name), { force: true });
      this.#copied.delete(name);
    } else if (!before || !isSame(status, before)) {
      this.#write(name, readFileSync(join(this.#system, name)));
      this.#copied.set(name, status);
    }
  }

  #stat(name: string): Stats | undefined {
    return statSync(join(this.#system, name), { throwIfNoEntry: false });
  }

  /** At one go: tasks may be reading it. */
  #write(name: string, content: string | Uint8Array): void {
    const [path, fresh] = [join(this.directory, name), join(this.directory, `.${name}`)];
    writeFileSync(fresh, content);
    chmodSync(fresh, 0o644);
    renameSync(fresh, path);
  }
}

const isSame = (a: Stats, b: Stats): boolean =>
  a.mtimeMs === b.mtimeMs && a.ctimeMs === b.ctimeMs && a.size === b.size && a.ino === b.ino;

/**
 * The few names a task may look up: its own and root's. Other people of this machine are none of its business. Where the
 * job asked for the network, the machine's hosts and servers of names are shown in place of these.
 */
function own(user: WorkRoot['user']): Record<string, string> {
  const uid = user?.uid ?? process.getuid?.() ?? 0;
  const gid = user?.gid ?? process.getgid?.() ?? 0;
  return {
    passwd: `root:x:0:0:root:/:/bin/false\ntask:x:${uid}:${gid}:task:/:/bin/sh\n`,
    group: `root:x:0:\ntask:x:${gid}:\n`,
    hosts: '127.0.0.1 localhost\n::1 localhost\n',
    'resolv.conf': '',
  };
}
