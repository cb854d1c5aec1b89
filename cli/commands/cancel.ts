import type { Command } from 'commander';
import { cancelShape } from '../../sdk/shapes.js';
import { parseJob } from '../arguments/target.js';
import { counted } from '../render/terminal.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, print, withConnection } from '../context.js';

export function build(): Command {
  return makeCommand('cancel', 'Cancel a job: tasks that wait never start, tasks that run are stopped.', [
    'mesh cancel JOB',
  ])
    .argument('<job>', 'the id of a job', parseJob)
    .action(async (id: string, _options: object, command: Command) => {
      const options = optionsOf(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const response = await mesh.cancelJob({ id });
        const shape = cancelShape({ ...response, job: present(response.job, 'the job') });
        print(options, shape, () => `${shape.id}: ${counted(shape.cancelled, 'task')} cancelled\n`);
      });
    });
}
