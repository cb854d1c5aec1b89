/**
 * The files the runner needs, where the runner's user can read them: this package may lie below a private home. They
 * are copied into the work root at start, a few hundred kilobytes, together with the piscina package.
 */
import { constants, existsSync } from 'node:fs';
import { chmod, copyFile, cp, mkdir, realpath, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MeshError } from '../../../common/errors.js';
import { packageRoot } from '../../../common/package.js';
import { passable, type WorkRoot } from '../workroot.js';

const FILES = ['runner.js', 'dispatch.js', 'worker.js', 'protocol.js'];

/** Where the compiled files are: beside this one, or in `dist` when this one runs from its source. */
function compiledDir(): string {
  const here = fileURLToPath(import.meta.url);
  return here.endsWith('.js') ? dirname(here) : join(packageRoot, 'dist/agent/executors/function');
}

export interface Runtime {
  /** Holds the program and what it imports. */
  directory: string;
  /** The Node to run it with. */
  node: string;
  /** The program to start. */
  runner: string;
  /** Where users' modules go. */
  modules: string;
}

/** @throws MeshError when this runs from its source and was never built */
export async function prepareRuntime(
  { path: workRoot, user }: Pick<WorkRoot, 'path' | 'user'>,
  from: string = compiledDir(),
): Promise<Runtime> {
  if (!existsSync(join(from, 'runner.js')))
    throw new MeshError('INTERNAL', `${from} holds no compiled function runner`, { hint: 'run: npm run build' });
  const directory = join(workRoot, 'runtime');
  const modules = join(workRoot, 'modules');
  for (const path of [directory, modules]) await mkdir(path, { recursive: true, mode: 0o755 });
  await writeFile(join(directory, 'package.json'), '{"type":"module"}\n', { mode: 0o644 });
  for (const file of FILES) await copyFile(join(from, file), join(directory, file));
  const piscina = dirname(dirname(createRequire(import.meta.url).resolve('piscina')));
  const target = join(directory, 'node_modules/piscina');
  await cp(join(piscina, 'package.json'), join(target, 'package.json'));
  await cp(join(piscina, 'dist'), join(target, 'dist'), {
    recursive: true,
    filter: (path) => !/\.(map|d\.ts)$/.test(path),
  });
  // Whatever the agent's umask says: the runner may start as somebody else.
  const folders = [directory, modules, join(directory, 'node_modules'), target];
  for (const folder of folders) await chmod(folder, 0o755);
  await chmod(join(directory, 'package.json'), 0o644);
  return { directory, node: await reachableNode(directory, user), runner: join(directory, 'runner.js'), modules };
}

/** This Node, or a copy of it where the task's user cannot get to where it is installed. */
async function reachableNode(directory: string, user: WorkRoot['user']): Promise<string> {
  const installed = await realpath(process.execPath);
  if (!user || (await passable(dirname(installed)))) return installed;
  const copy = join(directory, 'node');
  await copyFile(installed, copy, constants.COPYFILE_FICLONE);
  await chmod(copy, 0o755);
  return copy;
}
