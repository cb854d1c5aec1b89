/** A mesh on which people try out what jobs do: two agents that kill soon, one of two slots in the attic, one of one. */
import type { Test } from 'tap';
import { type Mesh, startMesh } from './mesh.js';

export async function startAtticMesh(t: Test): Promise<Mesh> {
  const mesh = await startMesh(t);
  const agent = ['--stop-grace', '100ms', '--kill-grace', '300ms'];
  await Promise.all([
    mesh.startAgent('a1', { args: [...agent, '--slots', '2', '--label', 'zone=attic'] }),
    mesh.startAgent('a2', { args: [...agent, '--slots', '1'] }),
  ]);
  return mesh;
}

/** What follows the flags of `mesh submit` for a script and its words. */
export const shell = (script: string, ...words: string[]): string[] => ['--', 'sh', '-c', script, 'sh', ...words];

export const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
