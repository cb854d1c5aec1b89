import { randomUUID } from 'node:crypto';
import type { MeshConnection } from '../../sdk/connect.js';
import { makeSpec, submitJob, type Work } from '../../sdk/submit.js';

/** Submits a job of `sh -c SCRIPT` over a connection that is there: thousands of them need no process each. */
export async function submitShell(
  { mesh }: Pick<MeshConnection, 'mesh'>,
  script: string,
  { tasks = 1, where = '' }: { tasks?: number; where?: string } = {},
): Promise<string> {
  const work: Work = { $case: 'process', value: { argv: ['sh', '-c', script], environment: {} } };
  const spec = makeSpec({ name: '', work, taskCount: tasks, where });
  return (await submitJob(mesh, { spec, idempotencyKey: randomUUID() })).id;
}
