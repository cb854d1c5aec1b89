import type { Api } from '../sdk/api.js';
import { jobShape } from '../sdk/shapes.js';
import { waitForJob } from '../sdk/watch.js';
import type { Job, MeshServiceService } from '../proto/gen/mesh/v1/mesh.js';
import { Progress } from './render/progress.js';

/** Waits for a job behind a progress bar. */
export async function awaitJob(
  mesh: Api<typeof MeshServiceService>,
  id: string,
  options: { timeoutMs?: number | undefined; title?: string } = {},
): Promise<Job> {
  const progress = await Progress.start(options.title ?? id, 1, 'tasks');
  try {
    return await waitForJob(mesh, id, {
      timeoutMs: options.timeoutMs,
      onChange: (job) => progress.job(jobShape(job)),
    });
  } finally {
    progress.stop();
  }
}
