/**
 * Writes docs/cli.md from the commands themselves. With `--check` it writes nothing and fails when the page is out of
 * date.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { buildProgram as buildAgent } from '../agent/program.js';
import { makeCaProgram } from '../ca/program.js';
import { buildProgram as buildMesh } from '../cli/program.js';
import { packageRoot } from '../common/package.js';
import { buildProgram as buildCoordinator } from '../coordinator/program.js';

/** The programs of the page, in its order. */
const PROGRAMS: readonly (() => Promise<Command>)[] = [
  () => buildMesh(),
  async () => buildCoordinator(),
  async () => buildAgent(),
  async () => makeCaProgram(() => Promise.reject(new Error('documentation runs nothing'))),
];

const WIDTH = 100;
const PAGE = join(packageRoot, 'docs', 'cli.md');
const INTRODUCTION = `# Commands

Generated from the programs by \`npm run docs\`; do not edit.

Every command of \`mesh\` takes \`--json\` (one JSON document, or JSON lines where it streams) and \`--profile\`. Errors are one
line on standard error: what, why, and what to do next; under \`--json\` they are
\`{"error":{"code","message","hint"}}\`. Exit codes: 0 done, 1 the job failed or the answer is no, 2 usage, 3 coordinator
unreachable, 4 denied, 5 not found, 6 timed out, 130 interrupted.
`;

function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (part) => {
      text += part;
    },
    getOutHelpWidth: () => WIDTH,
    getOutHasColors: () => false,
  });
  command.outputHelp();
  return text.trim();
}

function section(command: Command, path: string, level: number): string {
  const name = `${path}${command.name()}`;
  const own = `${'#'.repeat(level)} ${name}\n\n\`\`\`text\n${helpOf(command)}\n\`\`\`\n`;
  const below = command.commands.map((child) => section(child, `${name} `, 3));
  return [own, ...below].join('\n');
}

const programs = await Promise.all(PROGRAMS.map((build) => build()));
const page = [INTRODUCTION, ...programs.map((program) => section(program, '', 2))].join('\n');

if (process.argv.includes('--check')) {
  let current = '';
  try {
    current = readFileSync(PAGE, 'utf8');
  } catch {
    // Missing is out of date.
  }
  if (current !== page) {
    process.stderr.write('docs/cli.md is out of date: npm run docs\n');
    process.exitCode = 1;
  }
} else {
  writeFileSync(PAGE, page);
}
