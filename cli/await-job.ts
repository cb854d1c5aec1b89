import { systemClock } from '../common/clock.js';
import type { Api } from '../sdk/api.js';
import { jobShape } from '../sdk/shapes.js';
import { requireCompleted, waitForJob } from '../sdk/watch.js';
import type { Job, MeshServiceService } from '../proto/gen/mesh/v1/mesh.js';
import { Progress } from './render/progress.js';
import { safe, shorten } from './render/terminal.js';

/** How long nothing may have started before the bar says where to look. */
const HINT_AFTER_MS = 10_000;
/** Where the first failure is looked for, so that a huge job does not keep anybody waiting. */
const PAGES_MAX = 100;
/** Of an error of a task; mesh tasks JOB.INDEX has all of it. */
const ERROR_CHARACTERS_MAX = 200;

/** Waits for a job behind a progress bar. */
export async function awaitJob(
  mesh: Api<typeof MeshServiceService>,
  id: string,
  options: { timeoutMs?: number | undefined; title?: string } = {},
): Promise<Job> {
  const progress = await Progress.start(options.title ?? id, 1, 'tasks');
  const hint = systemClock.after(HINT_AFTER_MS, () => progress.update(0, `nothing has started; see: mesh why ${id}`));
  try {
    return await waitForJob(mesh, id, {
      timeoutMs: options.timeoutMs,
      onChange: (job) => {
        const shape = jobShape(job);
        if (shape.tasks.queued < shape.tasks.total) hint.cancel();
        progress.job(shape);
      },
    });
  } finally {
    hint.cancel();
    progress.stop();
  }
}

/** `requireCompleted`, with the first task that failed and why. @throws MeshError JOB_FAILED */
export async function requireDone(mesh: Pick<Api<typeof MeshServiceService>, 'listTasks'>, job: Job): Promise<void> {
  const failed = job.status !== 'COMPLETED' && job.error === '' && (job.tasks?.failed ?? 0) > 0;
  const error = failed ? await firstFailure(mesh, job.id).catch(() => '') : job.error;
  requireCompleted({ ...job, error });
}

async function firstFailure(mesh: Pick<Api<typeof MeshServiceService>, 'listTasks'>, job: string): Promise<string> {
  const ask = (cursor: string) => mesh.listTasks({ job, status: 'FAILED', limit: 1, cursor });
  let page = await ask('');
  // Of many tasks a page looks at some.
  for (let pages = 1; page.items.length === 0 && page.next !== '' && pages < PAGES_MAX; pages++)
    page = await ask(page.next);
  const [task] = page.items;
  if (!task?.lastError) return '';
  const [first = ''] = task.lastError.split('\n');
  return `task ${task.index}: ${shorten(safe(first), ERROR_CHARACTERS_MAX)}`;
}
