/** `npm run sim`: many seeds on several processes, or one seed with its trace. */
import { type ChildProcess, fork } from 'node:child_process';
import { violationText } from '../history/check.js';
import { readArguments, type SimArguments, USAGE } from './cli.js';
import { type RunResult, simulate } from './simulation.js';

const say = (text: string) => process.stdout.write(`${text}\n`);

interface Report {
  seed: number;
  violations: string[];
}

const report = ({ seed, violations }: RunResult): Report => ({ seed, violations: violations.map(violationText) });

async function one(seed: number, { trace, mutation }: SimArguments): Promise<number> {
  const result = await simulate({ seed, mutation, write: trace ? say : undefined });
  const seconds = (result.virtualMs / 1000).toFixed(0);
  say(`seed ${seed}: ${result.events} events in ${seconds} simulated seconds, hash ${result.hash}`);
  for (const violation of report(result).violations) say(`  ${violation}`);
  return result.violations.length > 0 ? 1 : 0;
}

/** Every `step`-th seed; tells the parent of each. */
async function work(from: number, to: number, step: number, { mutation }: SimArguments): Promise<void> {
  for (let seed = from; seed <= to; seed += step) {
    const result = await simulate({ seed, mutation });
    process.send?.({ sim: report(result) });
    // The loop of a run lets nothing else happen: now the message can leave.
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}

async function many(options: SimArguments): Promise<number> {
  const { from, seeds, workers, mutation, first } = options;
  const beganMs = performance.now();
  const broken: Report[] = [];
  let done = 0;
  const heard = (given: Report): void => {
    if (first && broken.length > 0) return;
    done++;
    if (given.violations.length > 0) {
      broken.push(given);
      say(`seed ${given.seed} breaks:\n  ${given.violations.slice(0, 5).join('\n  ')}`);
      if (first) for (const child of children) child.kill();
    }
    if (done % 1000 === 0) say(`${done} of ${seeds}`);
  };
  const children: ChildProcess[] = [];
  const ends = Array.from({ length: workers }, (_, i) => {
    const share = [from + i, from + seeds - 1, workers].join();
    const child = fork(process.argv[1] as string, process.argv.slice(2), {
      env: { ...process.env, MESH_SIM_SHARE: share },
    });
    children.push(child);
    // The loader of the sources talks on the same line.
    child.on('message', (message: { sim?: Report }) => message.sim && heard(message.sim));
    return new Promise<number>((resolve) => child.on('exit', (code) => resolve(code ?? 1)));
  });
  const failed = (await Promise.all(ends)).some((code) => code !== 0);
  const seconds = (performance.now() - beganMs) / 1000;
  say(
    `${done} seeds in ${seconds.toFixed(1)} s (${((seconds * 1000 * workers) / Math.max(1, done)).toFixed(1)} ms of one core each)`,
  );
  if (first && broken.length > 0) return 1;
  if (failed || done < seeds) say('a worker process died before it was done');
  else if (broken.length === 0) say('every history keeps I1 to I8');
  if (broken.length === 0) return failed || done < seeds ? 1 : 0;
  const replay = `npm run sim -- --seed ${broken[0]?.seed} --trace${mutation ? ` --mutation ${mutation}` : ''}`;
  say(`${broken.length} broken; replay one with: ${replay}`);
  return 1;
}

async function main(): Promise<number> {
  const given = process.argv.slice(2);
  if (given.includes('--help')) {
    say(USAGE);
    return 0;
  }
  let options: SimArguments;
  try {
    options = readArguments(given);
  } catch (error) {
    say(`${error instanceof Error ? error.message : String(error)}\n\n${USAGE}`);
    return 2;
  }
  const share = process.env.MESH_SIM_SHARE?.split(',').map(Number);
  if (share) {
    await work(share[0] as number, share[1] as number, share[2] as number, options);
    return 0;
  }
  return options.seed === undefined ? many(options) : one(options.seed, options);
}

process.exitCode = await main();
if (process.connected) process.disconnect();
