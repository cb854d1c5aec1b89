/**
 * Which functions share a process. Without isolation all do: they could reach each other anyway, and one warm runner is
 * cheap. In a sandbox only those of the same module, environment and permissions share one, in a *room*: a directory
 * that its runners alone can see, with the scratch space of their tasks. A room that nothing uses stays warm for the next
 * job of its kind, a few of them at a time.
 *
 * A job that is given secrets has a room, and runners, of its own in any case: what runs beside a function in its process
 * could read what that was given. Such a room ends with the last launch in it.
 */
import { chmodSync, mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import type { JobSecrets } from '../../core/secrets.js';
import type { LaunchSpec } from '../../core/types.js';
import type { Janitor } from '../janitor.js';
import { type Bounds, boundsOf } from '../sandbox/bounds.js';
import type { Tier } from '../sandbox/tier.js';
import type { Tiers } from '../sandbox/tiers.js';
import { type PlacedSecrets, placeSecrets, type SecretFiles } from '../secret-files.js';
import type { StrayWatch } from '../strays.js';
import type { WorkRoot } from '../workroot.js';
import { RunnerProcess } from './runner-process.js';
import type { Runtime } from './runtime.js';

const IDLE_MAX = 4;
/** Threads that Node needs beside those of the functions. */
const NODE_THREADS = 32;
/** Devices that are not there are passed over. */
const GPUS_MAX = 16;

export interface RoomsOptions {
  workRoot: WorkRoot;
  strays: StrayWatch;
  janitor: Janitor;
  tiers: Tiers;
  /** Undefined where secrets cannot be kept in memory as files. */
  secretFiles?: SecretFiles | undefined;
  slots: number;
}

export class Rooms {
  readonly #options: RoomsOptions;
  readonly #runtime: Runtime;
  /** By what their functions have in common, or by the secrets of the one job; the least recently used first. */
  readonly #rooms = new Map<string | JobSecrets, Room>();
  #made = 0;

  constructor(options: RoomsOptions, runtime: Runtime) {
    this.#options = options;
    this.#runtime = runtime;
  }

  /** Call `leave` once for each. @throws NodeFault when the job's tier is not here, or there is no place for its secrets */
  enter({ body, secrets }: Pick<LaunchSpec, 'body' | 'secrets'>, modulePath: string): Room {
    const { tiers } = this.#options;
    const tier = tiers.choose(body);
    const { openFiles, fileSizeBytes, processes } = boundsOf(undefined, body.limits, tiers.bounds);
    // Memory is bounded for each worker by itself, and CPU time adds up over all that a runner ever ran.
    const bounds: Bounds = { openFiles, fileSizeBytes, processes, memoryBytes: 0, cpuTimeMs: 0 };
    const isolated = tier.name === 'bubblewrap';
    const environment = body.work?.$case === 'function' ? body.work.value.environment : {};
    const gpus = isolated && (body.resources?.gpus ?? 0) > 0;
    const kind = [tier.name, bounds, ...(isolated ? [modulePath, environment, body.net, gpus] : [])];
    const key = secrets ?? JSON.stringify(kind);
    let room = this.#rooms.get(key);
    if (room) this.#rooms.delete(key);
    else {
      const placed = placeSecrets(this.#options.secretFiles, secrets);
      const place = this.#place(isolated, modulePath);
      room = new Room(this.#options, { tier, bounds, net: body.net, gpus, secrets, placed, ...place });
    }
    this.#rooms.set(key, room);
    room.users++;
    return room;
  }

  leave(room: Room): void {
    room.users--;
    const idle = [...this.#rooms].filter(([, { users }]) => users === 0);
    const warm = idle.filter(([key]) => typeof key === 'string');
    const secret = idle.filter(([key]) => typeof key !== 'string');
    for (const [key, retired] of [...secret, ...warm.slice(0, Math.max(0, warm.length - IDLE_MAX))]) {
      this.#rooms.delete(key);
      void retired.close();
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#rooms.values()].map((room) => room.close()));
  }

  #place(isolated: boolean, modulePath: string): Pick<RoomSetup, 'directory' | 'scratch' | 'runtime' | 'readable'> {
    const { workRoot } = this.#options;
    const runtime = this.#runtime;
    if (!isolated) return { directory: workRoot.path, scratch: workRoot.scratch, runtime, readable: [] };
    const name = `room-${++this.#made}`;
    const directory = join(workRoot.path, name);
    // Others may pass through: what lies in it belongs to the task's user, itself it does not.
    mkdirSync(directory);
    chmodSync(directory, workRoot.user ? 0o711 : 0o700);
    const scratch = workRoot.privateDir(join(name, 'scratch'));
    return { directory, scratch, runtime, readable: [runtime.directory, runtime.node, modulePath] };
  }
}

interface RoomSetup {
  tier: Tier;
  bounds: Bounds;
  net: boolean;
  gpus: boolean;
  /** What its one job is given, with the files in memory. */
  secrets: JobSecrets | undefined;
  placed: PlacedSecrets | undefined;
  /** Where directories with staged files go. */
  directory: string;
  scratch: string;
  runtime: Runtime;
  readable: readonly string[];
}

export class Room {
  users = 0;
  readonly directory: string;
  readonly #options: RoomsOptions;
  readonly #setup: RoomSetup;
  #shared: RunnerProcess | undefined;
  readonly #alone = new Set<RunnerProcess>();

  constructor(options: RoomsOptions, setup: RoomSetup) {
    this.#options = options;
    this.#setup = setup;
    this.directory = setup.directory;
  }

  /** What its functions find in their environment of secrets. */
  get variables(): Record<string, string> | undefined {
    const { secrets, placed } = this.#setup;
    return secrets?.variables(placed?.directory);
  }

  get shared(): RunnerProcess {
    if (!this.#shared?.alive) this.#shared = this.#start(this.#options.slots);
    return this.#shared;
  }

  startAlone(): RunnerProcess {
    const runner = this.#start(1);
    for (const earlier of this.#alone) if (!earlier.alive) this.#alone.delete(earlier);
    this.#alone.add(runner);
    return runner;
  }

  /** Kills its runners. */
  async close(): Promise<void> {
    const runners = this.#shared ? [this.#shared, ...this.#alone] : [...this.#alone];
    await Promise.all(runners.map((runner) => runner.stop()));
    const { directory, scratch, placed } = this.#setup;
    placed?.remove();
    if (directory === this.#options.workRoot.path) return;
    this.#options.janitor.remove(scratch);
    await this.#options.janitor.idle();
    try {
      rmdirSync(directory);
    } catch {
      // Something resisted and was reported; the next start empties the work root.
    }
  }

  #start(slots: number): RunnerProcess {
    const { workRoot, strays } = this.#options;
    const { tier, bounds, net, gpus, directory, scratch, runtime, readable, secrets, placed } = this.#setup;
    return new RunnerProcess({
      ...{ tier, net, directory, scratch, slots, strays, user: workRoot.user },
      readable: placed ? [...readable, placed.directory] : readable,
      ...{ node: runtime.node, program: runtime.runner, mask: secrets?.mask },
      bounds: { ...bounds, processes: bounds.processes && bounds.processes * slots + NODE_THREADS },
      gpus: gpus ? [...Array(GPUS_MAX).keys()] : [],
    });
  }
}
