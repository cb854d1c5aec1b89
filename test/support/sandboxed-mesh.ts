/** A mesh with agents that sandbox their tasks: one is root, the other an ordinary user, whose unsandboxed tasks are its equals. */
import { spawn } from 'node:child_process';
import { chmodSync, chownSync, existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Test } from 'tap';
import { type Agent, type Mesh, programPath, startMesh } from './mesh.js';
import type { Spawner } from './program.js';

/** Not the one that tasks of a root agent run as. */
const ORDINARY = 61_234;
const PLACES = ['/usr/bin/bwrap', '/bin/bwrap', '/usr/local/bin/bwrap'];

export const TIERS = ['process', 'bubblewrap'] as const;
export type Tier = (typeof TIERS)[number];
export type Who = 'root' | 'user';

export const skipReason: string | false =
  (process.getuid?.() !== 0 && 'needs root: it starts agents of two users') ||
  (!PLACES.some((path) => existsSync(path)) && 'needs bubblewrap: apt install bubblewrap');

/** Starts a program as an ordinary user. */
const asOrdinary: Spawner = (file, args, options) =>
  spawn('setpriv', [`--reuid=${ORDINARY}`, `--regid=${ORDINARY}`, '--clear-groups', '--', file, ...args], options);

/** The second agent is missing where an ordinary user cannot get to the built programs. */
export async function startSandboxed(t: Test): Promise<{ mesh: Mesh; agents: ReadonlyMap<Who, Agent> }> {
  const mesh = await startMesh(t);
  for (const name of ['open', 'ready', 'tmp', 'home']) chmodSync(mesh.folder(name), 0o777);
  const args = ['--sandbox', 'optional', '--sandbox-tmp', '8MiB', '--kill-grace', '200ms'];
  const agents = new Map<Who, Agent>([['root', await mesh.startAgent('root', { mode: 0o700, args })]]);
  if (!reachable(programPath('agent'))) return { mesh, agents };
  chownSync(mesh.folder('agent-user'), ORDINARY, ORDINARY);
  return {
    mesh,
    agents: agents.set('user', await mesh.startAgent('user', { mode: 0o700, args, spawner: asOrdinary })),
  };
}

function reachable(path: string): boolean {
  for (let folder = dirname(path); folder !== '/'; folder = dirname(folder))
    if ((statSync(folder).mode & 0o001) === 0) return false;
  return true;
}
