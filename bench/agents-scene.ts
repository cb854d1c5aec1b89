/** The mesh of the `agents` bench: one coordinator that is stopped, killed and started again, and crowds of agents. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../common/clock.js';
import { packageRoot } from '../common/package.js';
import type { BenchOptions } from './bench.js';
import { Crowds } from './crowd.js';
import { settleDatabase } from './database.js';
import { type BenchMesh, makeMeshSide, startBenchMesh } from './mesh-side.js';
import { cpuMs, cpuShare, treeCpuMs } from './process-cpu.js';
import { until } from './until.js';

export const PROCESSES = 2;
export const SLOTS = 2;
export const JOINS_AT_A_TIME = 32;
const POLL_MS = 50;
const TOKEN_MS = 3_600_000;

/** All agents come from one address here, and from a thousand in a mesh: what is bounded by address is opened up. */
export const SETTINGS = {
  MESH_MAX_CONNECTIONS: '8192',
  MESH_MAX_CONNECTIONS_PER_ADDRESS: '8192',
  MESH_MAX_HANDSHAKES_PER_ADDRESS: '4096',
  MESH_MAX_STRANGERS_PER_ADDRESS: '4096',
  MESH_MAX_CONNECTION_RATE: '10000',
  MESH_MAX_STRANGER_RATE: '10000',
};

export interface Memory {
  rss: number;
  heapUsed: number;
  heapTotal: number;
  external: number;
}

/** The mesh and its crowds, over restarts of the coordinator. */
export class Scene {
  mesh!: BenchMesh;
  crowds!: Crowds;
  readonly #settled: string;
  #port = 0;

  constructor(
    private readonly options: Pick<BenchOptions, 'workDir'>,
    readonly agents: number,
  ) {
    this.#settled = join(options.workDir, 'settled.json');
  }

  /** @returns milliseconds from the start of the coordinator's process until it is ready */
  async startCoordinator(): Promise<number> {
    this.mesh = await startBenchMesh({
      ...{ dataDir: join(this.options.workDir, 'mesh'), agents: 0, port: this.#port },
      settings: {
        ...SETTINGS,
        MESH_BENCH_SETTLED: this.#settled,
        NODE_OPTIONS: [process.env.NODE_OPTIONS, `--require=${join(packageRoot, 'bench', 'settle.cjs')}`]
          .join(' ')
          .trim(),
      },
    });
    this.#port = Number(this.mesh.mesh.address.split(':').at(-1));
    const ready = this.mesh.events.find(({ event }) => event === 'coordinator.ready');
    return ready && 'afterMs' in ready ? ready.afterMs : Number.NaN;
  }

  async startCrowds(): Promise<void> {
    const directory = join(this.options.workDir, 'crowd');
    this.crowds = await Crowds.start(PROCESSES, this.agents, {
      ...{ directory, coordinator: this.mesh.mesh.address, slots: SLOTS },
    });
  }

  async stop(): Promise<void> {
    await this.crowds?.stop();
    await this.mesh?.stop();
  }

  /** A token may be used a thousand times. */
  async enrol(): Promise<number> {
    const wanted = { role: 'agent', name: '', ttlMs: TOKEN_MS, uses: this.agents, replace: false };
    const { secret } = await this.mesh.connection.mesh.createToken(wanted);
    return timed(() => this.crowds.enrol(secret, JOINS_AT_A_TIME));
  }

  healthy(count: number): Promise<void> {
    return until(`${count} healthy agents`, POLL_MS, async () => {
      const { items } = await this.mesh.connection.mesh.listNodes({});
      return items.filter(({ state }) => state === 'HEALTHY').length >= count;
    });
  }

  /** What is left of the coordinator's memory when its garbage is collected. */
  async settledMemory(): Promise<Memory> {
    rmSync(this.#settled, { force: true });
    process.kill(this.mesh.coordinatorPid, 'SIGUSR2');
    let memory: Memory | undefined;
    await until('collecting garbage', POLL_MS, () => {
      try {
        memory = JSON.parse(readFileSync(this.#settled, 'utf8')) as Memory;
      } catch {
        return false;
      }
      return true;
    });
    return memory as Memory;
  }

  /** Percent of one core: coordinator, PostgreSQL with all its processes, the crowds. */
  async cpu(forMs: number): Promise<{ coordinator: number; postgres: number; crowds: number }> {
    const data = join(this.options.workDir, 'mesh', 'coordinator', 'postgres', 'data');
    const postgresPid = Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0]);
    const { pids } = this.crowds;
    const [coordinator = 0, postgres = 0, crowds = 0] = await cpuShare(forMs, [
      () => cpuMs(this.mesh.coordinatorPid).own,
      () => treeCpuMs(postgresPid),
      () => pids.reduce((sum, pid) => sum + cpuMs(pid).own, 0),
    ]);
    return { coordinator, postgres, crowds };
  }

  /** Milliseconds from the start of the new coordinator until every agent is healthy, and until it was ready. */
  async restart(how: 'SIGTERM' | 'SIGKILL'): Promise<{ settledMs: number; readyMs: number }> {
    const back = this.crowds.registeredAgain();
    if (how === 'SIGKILL') {
      process.kill(this.mesh.coordinatorPid, 'SIGKILL');
      await this.mesh.mesh.failure;
    }
    await this.mesh.stop();
    const fromMs = systemClock.monotonicMs();
    const readyMs = await this.startCoordinator();
    await back;
    await this.healthy(this.agents);
    return { settledMs: systemClock.monotonicMs() - fromMs, readyMs };
  }

  async throughput(tasks: number): Promise<number> {
    await settleDatabase(this.mesh.database);
    return (tasks * 1000) / (await makeMeshSide(this.mesh, {}).run(tasks));
  }
}

export async function timed(act: () => Promise<unknown>): Promise<number> {
  const fromMs = systemClock.monotonicMs();
  await act();
  return systemClock.monotonicMs() - fromMs;
}
