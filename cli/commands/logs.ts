import type { Command } from 'commander';
import { MeshError } from '../../common/errors.js';
import type { MeshConnection } from '../../sdk/connect.js';
import { parseTarget, type Target } from '../arguments/target.js';
import { exitOnInterrupt, makeCommand, optionsOf, present, withConnection } from '../context.js';
import { makeLogWriter } from '../render/log-writer.js';
import { counted } from '../render/terminal.js';

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
        let entries = 0;
        for await (const { items } of mesh.readLogs(request)) {
          entries += items.length;
          for (const entry of items) await writer.push(entry);
        }
        await writer.end();
        if (entries === 0 && index !== undefined && attempt !== undefined)
          await requireAttempt(mesh, id, index, attempt);
      });
    });
}

/** No output is no error, unless there is no such attempt. @throws MeshError NOT_FOUND */
async function requireAttempt(
  mesh: MeshConnection['mesh'],
  job: string,
  index: number,
  attempt: number,
): Promise<void> {
  const { items } = await mesh.listTasks({ job, index, status: '', limit: 1, cursor: '' });
  const attempts = items[0]?.attempts ?? 0;
  if (attempt <= attempts) return;
  const had = counted(attempts, 'attempt');
  throw new MeshError('NOT_FOUND', `task ${job}.${index} has had ${had}, no #${attempt}`, {
    hint: `see: mesh logs ${job}.${index}`,
  });
}
