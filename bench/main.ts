/**
 * `npm run bench`: measures, prints tables and keeps the results. A bench never fails on a slow number; it fails when
 * something does not work.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isErrorCode, MeshError, systemCode } from '../common/errors.js';
import { makeProgram, runProgram } from '../common/program.js';
import { account } from './account.js';
import { agents } from './agents.js';
import type { Bench } from './bench.js';
import { churn } from './churn.js';
import { graphileSweep } from './graphile-sweep.js';
import { keepResult } from './keep.js';
import { latency } from './latency.js';
import { logs } from './logs.js';
import { makespan } from './makespan.js';
import { million } from './million.js';
import { plan } from './plan.js';
import { processes } from './process.js';
import { circumstances, formatResult } from './report.js';
import { startup } from './startup.js';
import { throughput } from './throughput.js';

const BENCHES: readonly Bench[] = [
  throughput,
  account,
  latency,
  processes,
  million,
  churn,
  agents,
  startup,
  logs,
  plan,
  makespan,
  graphileSweep,
];

/** Runs of which the median is taken, unless somebody asks for another number. */
const RUNS = 5;
const AGENTS = 1;
const MINUTES = 10;

// The programs under test are started with this process's flags; they are built and need no TypeScript loader.
process.execArgv.length = 0;

const say = (line: string): void => void process.stderr.write(`  ${line}\n`);

function atLeastOne(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new MeshError('USAGE', `${text} is not a whole number from 1`);
  return value;
}

interface Flags {
  smoke?: boolean;
  runs: number;
  tasks?: number;
  agents: number;
  minutes: number;
  rate?: number;
  write: boolean;
  work: string;
}

/** An error of the build is not of our class, but it has the same code, message and hint. */
function asOurs(error: unknown): unknown {
  const code = systemCode(error);
  if (!(error instanceof Error) || error instanceof MeshError || !isErrorCode(code)) return error;
  const hint = (error as { hint?: unknown }).hint;
  return new MeshError(code, error.message, { cause: error, ...(typeof hint === 'string' ? { hint } : {}) });
}

/** What stands in bench/README.md was measured as the benches are by default, at least RUNS times. */
const isWorthKeeping = ({ smoke, runs, tasks, agents, minutes, rate, write }: Flags): boolean =>
  write &&
  !smoke &&
  runs >= RUNS &&
  tasks === undefined &&
  agents === AGENTS &&
  minutes >= MINUTES &&
  rate === undefined;

async function bench(names: string[], flags: Flags): Promise<void> {
  const smoke = flags.smoke ?? false;
  const unknown = names.find((name) => BENCHES.every((known) => known.name !== name));
  if (unknown) {
    const known = BENCHES.map(({ name }) => name).join(', ');
    throw new MeshError('USAGE', `there is no bench ${unknown}`, { hint: `there are ${known}` });
  }
  const around = circumstances(smoke);
  const kept = isWorthKeeping(flags);
  if (!kept) say('the results are printed, not kept');
  for (const { name, run, byNameOnly = false } of BENCHES) {
    if (names.length > 0 ? !names.includes(name) : byNameOnly) continue;
    process.stderr.write(`${name}\n`);
    const workDir = mkdtempSync(join(flags.work, 'mesh-bench-'));
    try {
      const runs = smoke ? 1 : flags.runs;
      const { tasks, agents, minutes, rate } = flags;
      const result = await run({ smoke, runs, tasks, agents, minutes, rate, workDir, say });
      process.stdout.write(`\n${formatResult(result, around)}\n\n`);
      if (kept)
        keepResult(
          result,
          around,
          BENCHES.map((known) => known.name),
        );
      rmSync(workDir, { recursive: true, force: true });
    } catch (error) {
      say(`what it left is in ${workDir}`);
      throw asOurs(error);
    }
  }
}

const program = makeProgram('bench', 'Measures the built programs on this machine.', [
  'npm run bench',
  'npm run bench -- throughput --runs 7',
  'npm run bench -- --smoke',
])
  .argument('[names...]', `which ones: ${BENCHES.map(({ name, about }) => `${name} (${about})`).join(', ')}`)
  .option('--smoke', 'small and quick, to see that everything works')
  .option('--runs <n>', 'how often each side runs', atLeastOne, RUNS)
  .option('--tasks <n>', 'tasks of a run, where a bench has them', atLeastOne)
  .option('--agents <n>', 'agents of the throughput bench', atLeastOne, AGENTS)
  .option('--minutes <n>', 'how long the churn bench lasts', atLeastOne, MINUTES)
  .option('--rate <n>', 'tasks a second of the churn bench (default: as fast as they go)', atLeastOne)
  .option('--no-write', 'only print: leave bench/results and bench/README.md as they are')
  .option('--work <dir>', 'where data directories are made', tmpdir())
  .action(bench);

await runProgram(program);
