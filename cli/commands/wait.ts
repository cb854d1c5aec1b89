import type { Command } from 'commander';
import { parseDuration } from '../../common/units.js';
import { jobShape } from '../../sdk/shapes.js';
import { parseJob } from '../arguments/target.js';
import { awaitJob, requireDone } from '../await-job.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, print, withConnection } from '../context.js';
import { jobView } from '../render/views.js';

export function build(): Command {
  return makeCommand(
    'wait',
    'Wait until a job ends. Exit code 0 when it completed, 1 when it did not, 6 when time ran out.',
    ['mesh wait JOB', 'mesh wait JOB --timeout 10m'],
  )
    .argument('<job>', 'the id of a job', parseJob)
    .addOption(parsedOption('--timeout <duration>', 'give up after so long; the job goes on', parseDuration))
    .action(async (id: string, _options: object, command: Command) => {
      const options = optionsOf<{ timeout?: number }>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const job = await awaitJob(mesh, id, { timeoutMs: options.timeout });
        const shape = jobShape(job);
        print(options, shape, () => jobView(shape));
        await requireDone(mesh, job);
      });
    });
}
