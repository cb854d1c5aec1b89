import type { Command } from 'commander';
import { parseTarget, type Target } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, withConnection } from '../context.js';
import { makeLogWriter } from '../render/log-writer.js';

export function build(): Command {
  return makeCommand(
    'logs',
    'Show the output of tasks. Piped, it is passed on byte by byte; on a terminal control characters are shown, not obeyed.',
    ['mesh logs JOB', 'mesh logs JOB.17 -f', 'mesh logs JOB.17#1        # the first attempt', 'mesh logs JOB --json'],
  )
    .argument('<job[.index[#attempt]]>', 'a job, a task or an attempt', parseTarget)
    .option('-f, --follow', 'go on until the job or task ends')
    .action(async (target: Target, _options: object, command: Command) => {
      const options = optionsOf<{ follow?: boolean }>(command);
      exitOnInterrupt(options.json === true);
      await withConnection(options, async ({ mesh }) => {
        const { job: id, index, attempt } = target;
        const job = options.json ? present((await mesh.getJob({ id })).job, 'the job').id : id;
        const writer = makeLogWriter({
          format: options.json ? 'json' : process.stdout.isTTY ? 'terminal' : 'raw',
          job,
          prefix: index === undefined,
        });
        const request = { job: id, index, attempt, follow: options.follow === true };
        for await (const { items } of mesh.readLogs(request)) for (const entry of items) await writer.push(entry);
        await writer.end();
      });
    });
}
