/**
 * `npm run chaos`: a real mesh under a seeded stream of jobs while everything is broken that can be: processes killed
 * and stopped, packets dropped, connections reset, the database killed. At the end everything is healed, everything
 * submitted must come to its end, and the whole history is checked. The seed decides what is submitted and broken; what
 * exactly happens then depends on the machine too.
 */
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MeshError } from '../../common/errors.js';
import { makeProgram, runProgram } from '../../common/program.js';
import { toLine } from '../history/events.js';
import { violationText } from '../history/check.js';
import { SeededRandom } from '../support/random.js';
import { uptimeMs } from '../support/trail.js';
import { type Fault, faultsFor, type Heal } from './faults.js';
import { elapsed, Load } from './load.js';
import { judge, type Verdict } from './verdict.js';
import { type ChaosAgent, World } from './world.js';

// The programs under test are started with this process's flags; they are built and need no TypeScript loader.
process.execArgv.length = 0;

const SLOTS = new Map([
  ['a1', 1],
  ['a2', 2],
  ['a3', 4],
  ['a4', 2],
]);
/** At a time; each has a target of its own. */
const FAULTS_MAX = 2;
const GAP_MEAN_MS = 1500;
/** What may still run when all is healed: retries, leases, long tasks. */
const SETTLE_MS_MAX = 180_000;
const VIOLATIONS_SHOWN = 20;

const say = (line: string): void => void process.stderr.write(`${line}\n`);

/** Injects faults until told to stop, then waits until all are healed. */
class Havoc {
  readonly counts = new Map<string, number>();
  readonly problems: string[] = [];
  readonly #under = new Map<string, Promise<void>>();
  #stopped = false;

  constructor(
    private readonly world: World,
    private readonly random: SeededRandom,
  ) {}

  async run(): Promise<void> {
    const faults = faultsFor(this.world);
    while (!this.#stopped) {
      await elapsed(100 + this.random.exponential(GAP_MEAN_MS));
      if (this.#stopped || this.#under.size >= FAULTS_MAX) continue;
      const fault = this.random.pick(faults);
      const agent = this.random.pick(this.world.agents);
      const target = fault.target === 'agent' ? agent.name : fault.target;
      if (this.#under.has(target)) continue;
      const work = this.#one(fault, agent, target).finally(() => this.#under.delete(target));
      this.#under.set(target, work);
    }
    await Promise.all(this.#under.values());
  }

  stop(): void {
    this.#stopped = true;
  }

  async #one(fault: Fault, agent: ChaosAgent, target: string): Promise<void> {
    const { kind } = fault;
    const lastsMs = fault.lastsMs(this.random);
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    this.world.note({ kind: 'fault-injected', atMs: uptimeMs(), fault: kind, target });
    try {
      const heal: Heal = await fault.inject(this.world, agent, this.random);
      await elapsed(lastsMs);
      await heal();
    } catch (error) {
      this.problems.push(`${kind} (${target}): ${(error as Error).message}`);
    }
    this.world.note({ kind: 'fault-healed', atMs: uptimeMs(), fault: kind, target });
  }
}

/** Until every job has ended, as the database says. @returns how many have not */
async function settled(world: World): Promise<number> {
  const endMs = uptimeMs() + SETTLE_MS_MAX;
  for (;;) {
    const [row] = await world.sql`select count(*)::int as live from job where completed_at is null`;
    const live = Number(row?.live);
    if (live === 0 || uptimeMs() > endMs) return live;
    await elapsed(250);
  }
}

function table(rows: readonly [string, string | number][]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${String(value).padStart(7)}`).join('\n');
}

function report(verdict: Verdict, havoc: Havoc, load: Load): string {
  const { submitted, completed, failed, cancelled, again, lost, doubled, longestStallMs } = verdict;
  return [
    'faults injected',
    table([...havoc.counts].sort(([a], [b]) => a.localeCompare(b))),
    'tasks',
    table([
      ['submitted', submitted],
      ['completed', completed],
      ['failed', failed],
      ['cancelled', cancelled],
      ['re-run', again],
      ['lost', lost],
      ['double-accepted', doubled],
    ]),
    'beside',
    table([
      ['jobs', load.submitted.length],
      ['jobs cancelled', load.cancelled],
      ['submissions refused', [...load.refused.values()].reduce((sum, count) => sum + count, 0)],
      ['longest stall', `${(longestStallMs / 1000).toFixed(1)} s`],
    ]),
  ].join('\n');
}

async function chaos(minutes: number, seed: number): Promise<void> {
  say(`seed ${seed}, ${minutes} min`);
  const world = new World([...SLOTS.keys()]);
  const problems: string[] = [];
  try {
    await world.start(SLOTS);
    say(`${SLOTS.size} agents, ${world.place}`);
    const load = new Load(world, new SeededRandom(seed));
    const havoc = new Havoc(world, new SeededRandom(seed + 1));
    const running = Promise.all([load.run(), havoc.run()]);
    await Promise.race([elapsed(minutes * 60_000), running]);
    havoc.stop();
    load.stop();
    await running;
    world.note({ kind: 'all-healed', atMs: uptimeMs() });
    say('all is healed; waiting for what is left');
    const live = await settled(world);
    if (live > 0)
      problems.push(`${live} jobs did not end within ${SETTLE_MS_MAX / 1000} s after everything was healed`);
    const verdict = await judge(world, load.submitted);
    process.stdout.write(`${report(verdict, havoc, load)}\n`);
    for (const [reason, count] of load.refused) say(`refused ${count} times: ${reason}`);
    problems.push(...havoc.problems, ...verdict.violations.slice(0, VIOLATIONS_SHOWN).map(violationText));
    if (verdict.lost > 0) problems.push(`${verdict.lost} acknowledged tasks are lost`);
    if (problems.length > 0) {
      const path = join(tmpdir(), `mesh-chaos-${seed}`);
      writeFileSync(`${path}.jsonl`, verdict.history.map(toLine).join(''));
      writeFileSync(`${path}.log`, world.mesh.logs(2000));
      say(`the history is in ${path}.jsonl, what the programs said in ${path}.log`);
    }
  } finally {
    problems.push(...(await world.close()));
  }
  for (const problem of problems) say(`BROKEN ${problem}`);
  if (problems.length === 0) return say('every promise was kept');
  say(`repeat it with: npm run chaos -- --minutes ${minutes} --seed ${seed}`);
  process.exitCode = 1;
}

const program = makeProgram('chaos', 'Breaks a real mesh in every way there is, and proves that nothing is lost.', [
  'npm run chaos -- --minutes 1',
  'npm run chaos -- --minutes 60 --seed 7',
])
  .option('--minutes <n>', 'how long things are broken', positive, 1)
  .option('--seed <n>', 'which stream of jobs and faults; a new one when absent', positive)
  .action((flags: { minutes: number; seed?: number }) =>
    chaos(flags.minutes, flags.seed ?? Math.floor(Math.random() * 2 ** 31)),
  );

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new MeshError('USAGE', `${text} is not a number above zero`);
  return value;
}

await runProgram(program, process.argv);
