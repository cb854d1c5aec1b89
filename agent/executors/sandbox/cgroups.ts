/**
 * Memory of a whole tree, bounded by the kernel: where this agent was given a part of the control groups (version 2) to
 * divide, a task that asked for memory gets a group of its own. Nothing is taken that was not given: the agent must be
 * alone in its group, as in a systemd service with `Delegate=`, and everything is undone when one step is refused.
 *
 * A child begins in the group its parent is in. So the agent steps into the task's group, starts the first process and
 * steps back, all in one turn: nothing of the task ever runs outside, and no process has to wait to be moved.
 */
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../../common/clock.js';
import { systemCode } from '../../../common/errors.js';
import type { Bounds } from './bounds.js';

const CONTROLLERS = ['memory', 'pids'] as const;
const RETRY_MS = 20;
/** What is killed is gone within milliseconds; a group that stays is found empty by the next start. */
const RETRIES_MAX = 250;

export interface CgroupPlace {
  /** The group this process is in, as a directory. */
  directory: string;
  pid: number;
  clock: Clock;
}

export class Cgroups {
  readonly #place: CgroupPlace;
  #made = 0;

  private constructor(place: CgroupPlace) {
    this.#place = place;
  }

  /** Undefined where there is nothing to divide. */
  static open(place: CgroupPlace): Cgroups | undefined {
    const { directory, pid } = place;
    const file = (name: string) => join(directory, name);
    try {
      const offered = words(file('cgroup.controllers'));
      const inside = words(file('cgroup.procs'));
      if (!CONTROLLERS.every((name) => offered.includes(name)) || inside.join() !== String(pid)) return undefined;
      mkdirSync(file('agent'), { recursive: true });
      writeFileSync(file('agent/cgroup.procs'), String(pid));
    } catch {
      return undefined;
    }
    try {
      writeFileSync(file('cgroup.subtree_control'), CONTROLLERS.map((name) => `+${name}`).join(' '));
      return new Cgroups(place);
    } catch {
      writeFileSync(file('cgroup.procs'), String(pid));
      return undefined;
    }
  }

  /** A group with these bounds; undefined when none can be made, and then the sampler bounds the tree. */
  create({ memoryBytes, processes }: Bounds): Cgroup | undefined {
    const { directory, pid, clock } = this.#place;
    const path = join(directory, `task-${pid}-${++this.#made}`);
    try {
      mkdirSync(path);
      writeFileSync(join(path, 'memory.max'), String(memoryBytes));
      // One that is out of memory ends as a whole: half a task is of no use to anybody.
      writeFileSync(join(path, 'memory.oom.group'), '1');
      if (processes > 0) writeFileSync(join(path, 'pids.max'), String(processes));
    } catch {
      removeLater(path, clock);
      return undefined;
    }
    // Only where there is swap, and then swapping out would not be a bound.
    quietly(() => writeFileSync(join(path, 'memory.swap.max'), '0'));
    return new Cgroup(path, join(directory, 'agent'), this.#place);
  }
}

export class Cgroup {
  readonly #path: string;
  readonly #home: string;
  readonly #place: CgroupPlace;

  constructor(path: string, home: string, place: CgroupPlace) {
    this.#path = path;
    this.#home = home;
    this.#place = place;
  }

  /** What `start` starts belongs to the group. */
  around<T>(start: () => T): T {
    const self = String(this.#place.pid);
    writeFileSync(join(this.#path, 'cgroup.procs'), self);
    try {
      return start();
    } finally {
      writeFileSync(join(this.#home, 'cgroup.procs'), self);
    }
  }

  /** Whether the kernel killed it for using more than it may. */
  get outOfMemory(): boolean {
    try {
      return /^oom_kill [1-9]/m.test(readFileSync(join(this.#path, 'memory.events'), 'latin1'));
    } catch {
      return false;
    }
  }

  /** Ends what is still in it, and the group. */
  remove(): void {
    quietly(() => writeFileSync(join(this.#path, 'cgroup.kill'), '1'));
    removeLater(this.#path, this.#place.clock);
  }
}

function removeLater(path: string, clock: Clock, left = RETRIES_MAX): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if (systemCode(error) === 'EBUSY' && left > 0)
      clock.after(RETRY_MS, () => removeLater(path, clock, left - 1), { background: true });
  }
}

function quietly(act: () => void): void {
  try {
    act();
  } catch {
    // An older kernel, or no swap.
  }
}

const words = (path: string): string[] => readFileSync(path, 'latin1').split(/\s+/).filter(Boolean);

/** The directory of this process's group; undefined without version 2. */
export function ownCgroup(read: (path: string) => string = (path) => readFileSync(path, 'latin1')): string | undefined {
  try {
    const own = /^0::(\/.*)$/m.exec(read('/proc/self/cgroup'))?.[1];
    // Fields of mountinfo: id, parent, device, root, mount point, options, optional fields, a dash, the type.
    const mount = /^\S+ \S+ \S+ (\S+) (\S+) [^\n]*? - cgroup2 /m.exec(read('/proc/self/mountinfo'));
    // The root group belongs to the machine; where the mount shows a part only, the names would not fit.
    return own && own !== '/' && mount?.[1] === '/' && mount[2] ? join(mount[2], own) : undefined;
  } catch {
    return undefined;
  }
}
