/**
 * `npm test`: every `*.test.ts`, first those of single parts, as many at a time as there are cores; then those of whole
 * meshes, two at a time: each has ports, folders and namespaces of its own, and waits for most of its time. What follows
 * `npm test --` are paths, or parts of paths; flags go on to tap.
 */
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { globSync } from 'tinyglobby';
import { packageRoot } from '../../common/package.js';
import { TestReport } from './report.js';

/** Files whose tests start whole meshes, several processes each. */
const MESHES = /^test\/(?:e2e|attack)\//;
const IGNORE = ['**/node_modules/**', 'dist/**', '.tap/**'];
const STDERR_SHOWN_BYTES = 64 * 1024;

interface Phase {
  name: string;
  files: string[];
  flags: string[];
}

export function planPhases(args: readonly string[], files: readonly string[]): Phase[] {
  const wanted = args.filter((arg) => !arg.startsWith('-')).map((arg) => arg.replace(/^\.\//, ''));
  const flags = args.filter((arg) => arg.startsWith('-'));
  const chosen = files.filter((path) => wanted.length === 0 || wanted.some((part) => path.includes(part)));
  const jobs = Math.max(2, Math.min(8, availableParallelism()));
  return [
    { name: 'unit', files: chosen.filter((path) => !MESHES.test(path)), flags: [`--jobs=${jobs}`, ...flags] },
    { name: 'e2e', files: chosen.filter((path) => MESHES.test(path)), flags: ['--jobs=2', '--timeout=180', ...flags] },
  ].filter((phase) => phase.files.length > 0);
}

async function runPhase(phase: Phase, report: TestReport, root: string): Promise<number> {
  const parser = report.parser();
  const ended = new Promise<void>((resolve) => parser.on('complete', () => resolve()));
  const tap = join(packageRoot, 'node_modules', '.bin', 'tap');
  const child = spawn(tap, ['run', '--reporter=tap', ...phase.flags, ...phase.files], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const stop = (signal: NodeJS.Signals): void => void child.kill(signal);
  process.once('SIGINT', stop).once('SIGTERM', stop);
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-STDERR_SHOWN_BYTES);
  });
  child.stdout.setEncoding('utf8').on('data', (text: string) => parser.write(text));
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve(status ?? 1));
  });
  process.off('SIGINT', stop).off('SIGTERM', stop);
  parser.end();
  await ended;
  report.expect(phase.files);
  if (code !== 0 && said.trim() !== '') process.stdout.write(`\nStandard error of the ${phase.name} tests:\n${said}\n`);
  return code;
}

/** Runs what `args` choose among the tests below `root`. Resolves to the exit code. */
export async function runTests(args: readonly string[], root: string): Promise<number> {
  const files = globSync('**/*.test.ts', { cwd: root, ignore: IGNORE }).sort();
  const phases = planPhases(args, files);
  if (phases.length === 0) {
    process.stderr.write(`no test file matches ${args.join(' ')}; name a path or a part of one\n`);
    return 2;
  }
  const report = new TestReport((line) => process.stdout.write(`${line}\n`));
  let worst = 0;
  for (const phase of phases) worst = Math.max(worst, await runPhase(phase, report, root));
  report.finish();
  return report.totals.failed > 0 ? Math.max(1, worst) : worst;
}
