/** The commands of `mesh`. Only the one that is typed is imported, so that every command starts fast. */
import { Command } from 'commander';
import { makeProgram } from '../common/program.js';
import { addGlobalOptions } from './context.js';

interface Entry {
  name: string;
  summary: string;
  load: () => Promise<{ build: () => Command }>;
}

const entry = (name: string, summary: string, load: Entry['load']): Entry => ({ name, summary, load });

const COMMANDS: readonly Entry[] = [
  entry('up', 'run a coordinator and agents on this machine', () => import('./commands/up.js')),
  entry('token', 'make, list and revoke join tokens', () => import('./commands/token.js')),
  entry('login', 'enrol yourself on this machine and write a profile', () => import('./commands/login.js')),
  entry('secret', 'set, list and remove values that only tasks get to see', () => import('./commands/secret.js')),
  entry('submit', 'submit a job', () => import('./commands/submit.js')),
  entry('jobs', 'list jobs', () => import('./commands/jobs.js')),
  entry('job', 'show one job', () => import('./commands/job.js')),
  entry('tasks', 'list the tasks of a job', () => import('./commands/tasks.js')),
  entry('logs', 'show or follow the output of tasks', () => import('./commands/logs.js')),
  entry('results', 'print the results of a job in index order', () => import('./commands/results.js')),
  entry('wait', 'wait until a job ends', () => import('./commands/wait.js')),
  entry('cancel', 'cancel a job', () => import('./commands/cancel.js')),
  entry('retry', 'run the tasks that did not complete again, as a new job', () => import('./commands/retry.js')),
  entry('why', 'why a job or task waits, or why it ran where it did', () => import('./commands/why.js')),
  entry('nodes', 'list the nodes; approve or refuse new ones', () => import('./commands/nodes.js')),
  entry('node', 'show one node', () => import('./commands/node.js')),
  entry('namespace', 'groups of submitters and their quotas', () => import('./commands/namespace.js')),
  entry('drain', 'give a node no more work', () => import('./commands/drain.js')),
  entry('undrain', 'give a drained node work again', () => import('./commands/undrain.js')),
  entry('doctor', 'what does not work here, and what is weak', () => import('./commands/doctor.js')),
  entry('backup', 'write the identity and state of a mesh to one file', () => import('./commands/backup.js')),
  entry('restore', 'make a data directory from a backup', () => import('./commands/restore.js')),
  entry('audit', 'who did what, from where, and whether it is all there', () => import('./commands/audit.js')),
  entry('revoke', 'shut a node out at once', () => import('./commands/revoke.js')),
  entry('remove', 'forget a node that is gone', () => import('./commands/remove.js')),
];

/** Top-level options that take the next word; anything else before the command is a flag. */
const WITH_VALUE = new Set(['--profile']);

/** The first word that is no option; for `help submit`, the second. */
function commandIn(words: readonly string[]): string | undefined {
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    if (WITH_VALUE.has(word)) i++;
    else if (word !== 'help' && !word.startsWith('-')) return word;
  }
  return undefined;
}

/**
 * The whole program, without side effects.
 * @param words what was typed after `mesh`: the command named there is loaded, the others are listed by name and
 *   summary only. Absent, all are loaded.
 */
export async function buildProgram(words?: readonly string[]): Promise<Command> {
  const program = makeProgram('mesh', 'Run jobs on the machines of your mesh.', [
    'mesh up                                      # the first machine: coordinator and agent',
    "mesh submit --each 'frames/*.png' --wait -- identify {}",
    'mesh jobs',
    'mesh why JOB                                 # why does it wait?',
  ]);
  addGlobalOptions(program);
  const wanted = words && commandIn(words);
  for (const { name, summary, load } of COMMANDS) {
    const command = words && name !== wanted ? new Command(name) : (await load()).build();
    program.addCommand(command.summary(summary));
  }
  return program;
}
