/**
 * Writes the pages of docs/ that the program knows best: the commands, who may call what, what is audited, what is bounded.
 * With `--check` it writes nothing and fails when a page is out of date.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { buildProgram as buildAgent } from '../agent/program.js';
import { makeCaProgram } from '../ca/program.js';
import { buildProgram as buildMesh } from '../cli/program.js';
import { readIfExists } from '../common/files.js';
import { packageRoot } from '../common/package.js';
import { buildProgram as buildCoordinator } from '../coordinator/program.js';
import { attacksPage } from './docs/attacks-page.js';
import { auditPage } from './docs/audit-page.js';
import { limitsPage } from './docs/limits-page.js';
import { rolesPage } from './docs/roles-page.js';

/** The programs of the page, in its order. */
const PROGRAMS: readonly (() => Promise<Command>)[] = [
  () => buildMesh(),
  async () => buildCoordinator(),
  async () => buildAgent(),
  async () => makeCaProgram(() => Promise.reject(new Error('documentation runs nothing'))),
];

const WIDTH = 100;
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

async function cliPage(): Promise<string> {
  const programs = await Promise.all(PROGRAMS.map((build) => build()));
  return [INTRODUCTION, ...programs.map((program) => section(program, '', 2))].join('\n');
}

const PAGES: Readonly<Record<string, string>> = {
  'cli.md': await cliPage(),
  'roles.md': rolesPage(),
  'audit.md': auditPage(),
  'attacks.md': attacksPage(),
  'limits.md': limitsPage(),
};

for (const [name, page] of Object.entries(PAGES)) {
  const path = join(packageRoot, 'docs', name);
  if (!process.argv.includes('--check')) writeFileSync(path, page);
  else if (readIfExists(path) !== page) {
    process.stderr.write(`docs/${name} is out of date: npm run docs\n`);
    process.exitCode = 1;
  }
}
