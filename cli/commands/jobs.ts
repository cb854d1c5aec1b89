import type { Command } from 'commander';
import { systemClock } from '../../common/clock.js';
import { asInteger } from '../../common/numbers.js';
import { jobShape, pageShape } from '../../sdk/shapes.js';
import { upperCase } from '../arguments/status.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, print, withConnection } from '../context.js';
import { jobsTable } from '../render/views.js';

interface Options {
  status?: string;
  limit: number;
  cursor?: string;
}

export function build(): Command {
  return makeCommand('jobs', 'List jobs, the latest first.', [
    'mesh jobs',
    'mesh jobs --status RUNNING',
    "mesh jobs --json | jq -r '.items[].id'",
  ])
    .option('--status <status>', 'only jobs in this status', upperCase)
    .addOption(
      parsedOption('--limit <n>', 'at most so many, 1 to 1000', asInteger(1, 1000), { value: 20, shown: '20' }),
    )
    .option('--cursor <cursor>', 'go on where a list ended: its "next"')
    .action(async (_options: Options, command: Command) => {
      const options = optionsOf<Options>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const { status = '', limit, cursor = '' } = options;
        const response = await mesh.listJobs({ status, limit, cursor });
        const page = pageShape(response.items.map(jobShape), response.next);
        print(options, page, () =>
          page.items.length === 0
            ? 'There are no jobs. Submit one: mesh submit -- COMMAND\n'
            : jobsTable(page.items, systemClock.wallMs()) + more(page.next),
        );
      });
    });
}

const more = (next: string | null): string => (next === null ? '' : `There are more: --cursor ${next}\n`);
