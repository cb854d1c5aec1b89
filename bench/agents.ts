/**
 * A thousand agents: what each costs the coordinator in memory, what they cost while nothing happens, how long it takes
 * until all are back after the coordinator was restarted, or killed, and what they do to everything else: throughput,
 * answers to heartbeats, lists and metrics. Next to ten agents on the same mesh.
 */
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { pause, systemClock } from '../common/clock.js';
import { JOINS_AT_A_TIME, type Memory, PROCESSES, Scene, SETTINGS, SLOTS, timed } from './agents-scene.js';
import type { Bench, BenchOptions } from './bench.js';
import type { BenchMesh } from './mesh-side.js';
import { residentMemory, toMiB } from './process-memory.js';
import { formatNumber, type Result, type Row } from './report.js';

const FEW = 10;
const LISTS = 10;

/** One scrape over mutual TLS, on a connection of its own. */
function scrape({ mesh }: BenchMesh): Promise<number> {
  const read = (file: string): Buffer => readFileSync(join(mesh.adminProfile, file));
  const [host, port] = mesh.address.split(':');
  const files = { ca: read('ca.crt'), cert: read('client.crt'), key: read('client.key') };
  return timed(
    () =>
      new Promise<void>((resolve, reject) => {
        request({ host, port, path: '/metrics', ...files, agent: false }, (response) => {
          response.resume();
          response.on('end', resolve);
        })
          .on('error', reject)
          .end();
      }),
  );
}

const percentile = (values: readonly number[], share: number): number =>
  [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))] ?? Number.NaN;

class Rows {
  readonly rows: Row[] = [];

  add(what: string, unit: string, value: number, atMost?: number): void {
    const known = this.rows.find((row) => row.what === what);
    if (known) known.values.push(value);
    else this.rows.push({ what, unit, values: [value], ...(atMost === undefined ? {} : { aims: [{ atMost }] }) });
  }
}

/** Repeats a measurement, each time on the mesh as the one before has left it. */
async function measureLoad(scene: Scene, rows: Rows, count: number, options: BenchOptions): Promise<void> {
  const tasks = options.tasks ?? (options.smoke ? 2000 : 50_000);
  await scene.throughput(Math.ceil(tasks / 5));
  for (let run = 1; run <= options.runs; run++) {
    await scene.crowds.latenciesMs();
    const rate = await scene.throughput(tasks);
    const latencies = await scene.crowds.latenciesMs();
    rows.add(`no-op tasks a second on ${count} agents`, 'tasks/s', rate);
    // A run of ten agents may be over before any of them has a heartbeat due.
    if (latencies.length > 0) {
      rows.add(`answer to a heartbeat under that load, ${count} agents, p50`, 'ms', percentile(latencies, 0.5));
      rows.add(`answer to a heartbeat under that load, ${count} agents, p99`, 'ms', percentile(latencies, 0.99));
    }
    options.say(`${count} agents, run ${run}: ${formatNumber(rate)} tasks/s`);
  }
}

async function measureIdle(scene: Scene, rows: Rows, count: number, options: BenchOptions): Promise<void> {
  const forMs = options.smoke ? 500 : 10_000;
  for (let run = 1; run <= options.runs; run++) {
    await scene.crowds.latenciesMs();
    const { coordinator, postgres, crowds } = await scene.cpu(forMs);
    const latencies = await scene.crowds.latenciesMs();
    const aim = count === FEW ? undefined : 10;
    rows.add(`coordinator, idle with ${count} agents`, '% of a core', coordinator, aim);
    rows.add(`PostgreSQL, idle with ${count} agents`, '% of a core', postgres);
    if (latencies.length > 0) {
      rows.add(`answer to a heartbeat, idle, ${count} agents, p50`, 'ms', percentile(latencies, 0.5));
      rows.add(`answer to a heartbeat, idle, ${count} agents, p99`, 'ms', percentile(latencies, 0.99));
    }
    const shares = [coordinator, postgres, crowds].map(formatNumber).join(', ');
    options.say(`${count} agents idle: coordinator, PostgreSQL, agents use ${shares} % of a core`);
  }
}

/** A job that no node can take keeps the planner looking at all of them, every second. */
async function measureAwake(scene: Scene, rows: Rows, options: BenchOptions): Promise<void> {
  const { id } = await scene.mesh.submit({ name: 'waits', taskCount: 1000, where: 'name=nowhere' });
  for (let run = 1; run <= options.runs; run++) {
    const { coordinator } = await scene.cpu(options.smoke ? 500 : 10_000);
    rows.add(`coordinator, ${scene.agents} agents and a job that fits none of them`, '% of a core', coordinator, 10);
    options.say(`${scene.agents} agents and a job that waits: the coordinator uses ${formatNumber(coordinator)} %`);
  }
  await scene.mesh.connection.mesh.cancelJob({ id });
  await scene.mesh.wait(id);
}

async function measureAnswers(scene: Scene, rows: Rows): Promise<void> {
  for (let count = 0; count < LISTS; count++) {
    const list = () => scene.mesh.connection.mesh.listNodes({});
    rows.add(`list of ${scene.agents} nodes`, 'ms', await timed(list));
    rows.add(`/metrics with ${scene.agents} nodes`, 'ms', await scrape(scene.mesh));
  }
}

async function measureMemory(scene: Scene, rows: Rows, few: Memory, rssFew: number): Promise<void> {
  const rss = residentMemory(scene.mesh.coordinatorPid).nowBytes;
  const many = await scene.settledMemory();
  const each = (what: string, bytes: number, aim?: number): void =>
    rows.add(what, 'KB', bytes / 1000 / Math.max(1, scene.agents - FEW), aim);
  each('coordinator memory (RSS) of each session, settled', many.rss - few.rss, 150);
  each('of it JavaScript heap', many.heapUsed - few.heapUsed);
  each('of it buffers outside the heap', many.external - few.external);
  each('as it stands, without a forced collection', rss - rssFew);
  rows.add(`coordinator RSS with ${scene.agents} agents, settled`, 'MiB', toMiB(many.rss));
}

async function measureRestarts(scene: Scene, rows: Rows, options: BenchOptions): Promise<void> {
  for (let run = 1; run <= options.runs; run++) {
    for (const [how, words] of [
      ['SIGTERM', 'restarted'],
      ['SIGKILL', 'started again after kill -9'],
    ] as const) {
      const { settledMs, readyMs } = await scene.restart(how);
      rows.add(`coordinator ${words} → all ${scene.agents} healthy`, 'ms', settledMs, 10_000);
      rows.add(`of it until it was ready, ${words}`, 'ms', readyMs);
      options.say(`${words}: ready after ${formatNumber(readyMs)} ms, all back after ${formatNumber(settledMs)} ms`);
    }
  }
}

async function measure(scene: Scene, options: BenchOptions): Promise<Row[]> {
  const { say, smoke } = options;
  const rows = new Rows();
  await scene.startCoordinator();
  await scene.startCrowds();
  const enrolMs = await scene.enrol();
  say(`${scene.agents} agents enrolled in ${formatNumber(enrolMs)} ms`);
  rows.add(`${scene.agents} agents enrolled with a token`, 'ms', enrolMs);
  await scene.crowds.run(FEW);
  await measureLoad(scene, rows, FEW, options);
  await measureIdle(scene, rows, FEW, options);
  const few = await scene.settledMemory();
  const rssFew = residentMemory(scene.mesh.coordinatorPid).nowBytes;
  const connectMs = await timed(() => scene.crowds.run(scene.agents));
  await scene.healthy(scene.agents);
  say(`all ${scene.agents} agents registered after ${formatNumber(connectMs)} ms`);
  rows.add(`first sessions of ${scene.agents - FEW} more agents → all registered`, 'ms', connectMs);
  await pause(systemClock, smoke ? 500 : 5000);
  await measureMemory(scene, rows, few, rssFew);
  await measureIdle(scene, rows, scene.agents, options);
  await measureAwake(scene, rows, options);
  await measureAnswers(scene, rows);
  await measureLoad(scene, rows, scene.agents, options);
  await measureRestarts(scene, rows, options);
  return rows.rows;
}

async function run(options: BenchOptions): Promise<Result> {
  const scene = new Scene(options, options.smoke ? 20 : 1000);
  try {
    const rows = await measure(scene, options);
    return {
      name: 'agents',
      title: `${scene.agents} agents, each with a mutual-TLS session of its own`,
      rows,
      config: {
        coordinator: {
          settings: Object.entries(SETTINGS)
            .map(([name, value]) => `${name}=${value}`)
            .join(' '),
          others: 'defaults',
        },
        agents: {
          processes: String(PROCESSES),
          'slots each': String(SLOTS),
          executor: 'ends functions at once',
          joins: `${JOINS_AT_A_TIME} at a time`,
        },
      },
      notes: [
        `Memory of a session: growth of the coordinator from ${FEW} to ${scene.agents} agents, divided by their number.`,
        'All agents come from 127.0.0.1 and share the two cores with the coordinator and PostgreSQL; their CPU is not in the figures of the coordinator, but they take it from it.',
        'A restart counts from the start of the new process; heartbeats from their sending to their answer, in the process of the agents.',
      ],
    };
  } finally {
    await scene.stop();
  }
}

export const agents: Bench = {
  name: 'agents',
  about: '1,000 agents with a session each: memory, idle CPU, return after a restart',
  run,
};
