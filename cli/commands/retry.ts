import type { Command } from 'commander';
import { jobShape } from '../../sdk/shapes.js';
import { parseJob } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, print, withConnection } from '../context.js';

export function build(): Command {
  return makeCommand('retry', 'Run the tasks that did not complete again, as a new job. Prints its id.', [
    'mesh retry JOB',
    'mesh wait "$(mesh retry JOB)"',
  ])
    .argument('<job>', 'the id of a job that has ended', parseJob)
    .action(async (id: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const job = jobShape(present((await mesh.retryJob({ id })).job, 'the job'));
        print(options, job, () => `${job.id}\n`);
      });
    });
}
