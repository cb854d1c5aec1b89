import type { Command } from 'commander';
import { MeshError } from '../../common/errors.js';
import { asInteger } from '../../common/numbers.js';
import { pageShape, taskShape } from '../../sdk/shapes.js';
import { upperCase } from '../arguments/status.js';
import { parseTask, type Target } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, print, withConnection } from '../context.js';
import { tasksTable } from '../render/views.js';

interface Options {
  status?: string;
  limit: number;
  cursor?: string;
}

export function build(): Command {
  return makeCommand('tasks', 'List the tasks of a job, or show one of them, with results under --json.', [
    'mesh tasks JOB',
    'mesh tasks JOB --status FAILED',
    'mesh tasks JOB.17 --json',
  ])
    .argument('<job[.index]>', 'a job or one of its tasks', parseTask)
    .option('--status <status>', 'only tasks in this status', upperCase)
    .addOption(
      parsedOption('--limit <n>', 'at most so many, 1 to 1000', asInteger(1, 1000), { value: 100, shown: '100' }),
    )
    .option('--cursor <cursor>', 'go on where a list ended: its "next"')
    .action(async (target: Target, _options: Options, command: Command) => {
      const options = optionsOf<Options>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const { status = '', limit } = options;
        const ask = (cursor: string) => mesh.listTasks({ job: target.job, index: target.index, status, limit, cursor });
        let response = await ask(options.cursor ?? '');
        // Of many tasks a page looks at some: none of them in this status does not mean that there are none.
        while (response.items.length === 0 && response.next !== '') response = await ask(response.next);
        if (target.index !== undefined && response.items.length === 0 && status === '')
          throw new MeshError('NOT_FOUND', `job ${target.job} has no task ${target.index}`, {
            hint: `see: mesh tasks ${target.job}`,
          });
        const page = pageShape(response.items.map(taskShape), response.next);
        const more = page.next === null ? '' : `There are more: --cursor ${page.next}\n`;
        print(options, page, () =>
          page.items.length === 0 ? 'There are no such tasks.\n' : tasksTable(page.items) + more,
        );
      });
    });
}
