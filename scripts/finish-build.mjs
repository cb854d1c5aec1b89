/**
 * After the compiler: makes the commands executable, checks that they start with a shebang, and copies what runs but
 * is not compiled. Running it again changes nothing.
 */
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { globSync } from 'tinyglobby';

const SHEBANG = '#!/usr/bin/env node\n';
const COMPILED = ['common', 'link', 'ca', 'coordinator', 'agent', 'sdk', 'cli'];

/** @param {string} root folder of package.json @returns {string[]} what is wrong, one line each */
export function finishBuild(root) {
  const problems = [];
  const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const [name, path] of Object.entries(bin ?? {})) {
    const file = join(root, path);
    if (!existsSync(file)) {
      problems.push(`${path} is missing, so there is no command ${name}`);
    } else if (!readFileSync(file, 'utf8').startsWith(SHEBANG)) {
      problems.push(`${path} does not start with ${SHEBANG.trim()}: put it on the first line of its source`);
    } else if ((statSync(file).mode & 0o777) !== 0o755) {
      chmodSync(file, 0o755);
    }
  }
  for (const path of globSync(
    COMPILED.map((folder) => `${folder}/**/*.{mjs,cjs,json}`),
    { cwd: root },
  )) {
    const target = join(root, 'dist', path);
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(root, path), target);
  }
  return problems;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const problems = finishBuild(join(dirname(fileURLToPath(import.meta.url)), '..'));
  for (const problem of problems) process.stderr.write(`finish-build: ${problem}\n`);
  process.exitCode = problems.length > 0 ? 1 : 0;
}
