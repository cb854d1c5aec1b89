/**
 * Compiles what is written in C, where there is a compiler: the spawner of the agent, as one program without libraries, into
 * dist/native. Without it everything works, processes only start slower; so a machine without a compiler is told and no more.
 * `CC` names the compiler; `MESH_NATIVE_ARCH` the processor it compiles for, as Node calls it (x64, arm64).
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FLAGS = ['-std=gnu11', '-D_FILE_OFFSET_BITS=64', '-O2', '-Wall', '-Wextra', '-Werror', '-s'];

/**
 * @param {string} root folder of package.json
 * @param {{ cc?: string, arch?: string }} options
 * @returns {string | undefined} why there is none
 */
export function buildNative(root, { cc = 'cc', arch = process.arch } = {}) {
  if (process.platform !== 'linux') return 'the spawner is for Linux';
  const source = join(root, 'agent', 'executors', 'spawner', 'spawner.c');
  const target = join(root, 'dist', 'native', `mesh-spawner-linux-${arch}`);
  const made = statSync(target, { throwIfNoEntry: false });
  if (made && made.mtimeMs >= statSync(source).mtimeMs) return undefined;
  mkdirSync(dirname(target), { recursive: true });
  const fresh = `${target}.${process.pid}`;
  let said = '';
  for (const linking of [['-static'], []]) {
    const { status, error, stderr } = spawnSync(cc, [...FLAGS, ...linking, '-o', fresh, source], { encoding: 'utf8' });
    if (status === 0) {
      // Agents may be running the old one.
      renameSync(fresh, target);
      return undefined;
    }
    said = error ? `there is no compiler (${cc})` : stderr;
    if (error) break;
  }
  return said;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { CC, MESH_NATIVE_ARCH } = process.env;
  const options = { ...(CC ? { cc: CC } : {}), ...(MESH_NATIVE_ARCH ? { arch: MESH_NATIVE_ARCH } : {}) };
  const problem = buildNative(join(dirname(fileURLToPath(import.meta.url)), '..'), options);
  if (problem) process.stderr.write(`build-native: no spawner, agents will start processes themselves: ${problem}\n`);
}
