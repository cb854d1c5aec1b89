import type { Command } from 'commander';
import { jobShape } from '../../sdk/shapes.js';
import { parseJob } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, print, withConnection } from '../context.js';
import { jobView } from '../render/views.js';

export function build(): Command {
  return makeCommand('job', 'Show one job.', ['mesh job JOB', 'mesh job JOB --json'])
    .argument('<job>', 'the id of a job', parseJob)
    .action(async (id: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const job = jobShape(present((await mesh.getJob({ id })).job, 'the job'));
        print(options, job, () => jobView(job));
      });
    });
}
