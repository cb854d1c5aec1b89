import type { Command } from 'commander';
import { parseJob } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, withConnection } from '../context.js';
import { printResults } from '../print-results.js';

export function build(): Command {
  return makeCommand(
    'results',
    'Print the results of a job in index order: what functions returned, or the end of what commands printed.',
    ['mesh results JOB', 'mesh results JOB --follow', "mesh results JOB --json | jq '.result'"],
  )
    .argument('<job>', 'the id of a job', parseJob)
    .option('-f, --follow', 'go on until the job ends')
    .action(async (id: string, _options: object, command: Command) => {
      const options = optionsOf<{ follow?: boolean }>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, ({ mesh }) =>
        printResults(mesh, id, { json: options.json === true, follow: options.follow === true }),
      );
    });
}
