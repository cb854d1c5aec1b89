/**
 * The function runner: a process of its own, so that a crash or a curious function reaches neither the agent nor its
 * key. Started with one argument, a JSON `RunnerOptions`; talks over descriptor 3 (see protocol.ts). A root agent's
 * runner gives up its rights before it reads anything of a user. It ends when the agent goes away.
 *
 * Workers are kept by module, environment and memory limit: functions of one module share warm workers, others never
 * share a thread's globals with them.
 */
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { Piscina } from 'piscina';
import { Batch } from './dispatch.js';
import { type BatchMessage, type FromRunner, threadsNowMs, type ToRunner, type WorkerReport } from './protocol.js';

export interface RunnerOptions {
  slots: number;
  uid: number | undefined;
  gid: number | undefined;
  scratch: string;
  /** What every worker's environment begins with. */
  environment: Record<string, string>;
}

const WATCH_EVERY_MS = 20;
const POOLS_MAX = 8;
const IDLE_MS = 60_000;
/** Node itself needs some of it; below this a worker does not even start. */
const HEAP_MB_MIN = 32;

interface Pool {
  piscina: Piscina;
  batches: Set<Batch>;
}

const options = JSON.parse(process.argv[2] ?? '{}') as RunnerOptions;
dropRights();
const link = new Socket({ fd: 3 });
const pools = new Map<string, Pool>();
const batches = new Map<number, Batch>();
let watching: NodeJS.Timeout | undefined;

link.on('error', () => process.exit(0));
link.on('close', () => process.exit(0));
createInterface({ input: link, crlfDelay: Number.POSITIVE_INFINITY }).on('line', (line) => {
  const message = JSON.parse(line) as ToRunner;
  if (message.kind === 'stop') batches.get(message.id)?.stop(message.position, message.reason);
  else start(message);
});
send({ kind: 'ready' });

function dropRights(): void {
  if (options.uid === undefined || options.gid === undefined) return;
  process.setgroups?.([]);
  process.setgid?.(options.gid);
  process.setuid?.(options.uid);
  if (process.getuid?.() !== options.uid || process.geteuid?.() !== options.uid) process.exit(70);
}

function send(message: FromRunner): void {
  link.write(`${JSON.stringify(message)}\n`);
}

function start(message: BatchMessage): void {
  const pool = poolFor(message);
  const batch = new Batch(
    message,
    (task, signal) => pool.piscina.run(task, { signal }) as Promise<number>,
    options.scratch,
    send,
  );
  pool.batches.add(batch);
  batches.set(message.id, batch);
  watching ??= setInterval(watch, WATCH_EVERY_MS);
  void batch.run().then(() => {
    pool.batches.delete(batch);
    batches.delete(message.id);
    if (batches.size > 0) return;
    clearInterval(watching);
    watching = undefined;
  });
}

function watch(): void {
  const nowMs = threadsNowMs();
  for (const batch of batches.values()) batch.watch(nowMs);
}

function poolFor(message: BatchMessage): Pool {
  const { module, environment } = message.work;
  const key = JSON.stringify([module, message.memoryBytes, environment]);
  let pool = pools.get(key);
  if (pool) {
    pools.delete(key);
  } else {
    retireOldest();
    pool = makePool(message);
  }
  pools.set(key, pool);
  return pool;
}

function makePool(message: BatchMessage): Pool {
  const heapMb = Math.max(HEAP_MB_MIN, Math.floor(message.memoryBytes / 2 ** 20));
  const pool: Pool = {
    batches: new Set(),
    piscina: new Piscina({
      filename: new URL('./worker.js', import.meta.url).href,
      minThreads: 0,
      maxThreads: options.slots,
      idleTimeout: IDLE_MS,
      // Between batches a worker's event loop stays alive, so that what a function left behind disturbs nobody later.
      atomics: 'disabled',
      recordTiming: false,
      env: { ...options.environment, ...message.work.environment },
      ...(message.memoryBytes > 0 ? { resourceLimits: { maxOldGenerationSizeMb: heapMb } } : {}),
    }),
  };
  pool.piscina.on('message', (report: unknown) => {
    if (!isReport(report)) return;
    for (const batch of pool.batches) if (batch.report(report)) return;
  });
  // A worker that dies with no task at hand: idle, or before it was ready.
  pool.piscina.on('error', () => {
    for (const batch of pool.batches) batch.abandon();
  });
  return pool;
}

function retireOldest(): void {
  if (pools.size < POOLS_MAX) return;
  for (const [key, pool] of pools) {
    if (pool.batches.size > 0) continue;
    pools.delete(key);
    void pool.piscina.destroy();
    return;
  }
}

/** A function can post messages too. */
function isReport(message: unknown): message is WorkerReport {
  const report = message as Partial<WorkerReport> | null;
  return (
    typeof report === 'object' &&
    typeof report?.dispatch === 'number' &&
    typeof report.from === 'number' &&
    [report.results, report.errors, report.runUs, report.output].every(Array.isArray)
  );
}
