/** The program that starts processes for the agent, for tests of what it starts. */
import { silentLogger } from '../../common/log.js';
import type { Child, StartPlan } from '../../agent/executors/child.js';
import { UNBOUNDED } from '../../agent/executors/sandbox/bounds.js';
import { findSpawner } from '../../agent/executors/spawner/program.js';
import { Spawner } from '../../agent/executors/spawner/spawner.js';

const program = findSpawner();

/** Why tests that need it are skipped. */
export const noSpawner = program === undefined && 'no spawner was built: that needs a C compiler';

export async function makeSpawner(t: { teardown(fn: () => unknown): unknown }): Promise<Spawner> {
  const spawner = new Spawner(program, silentLogger);
  await spawner.start();
  t.teardown(() => spawner.stop());
  return spawner;
}

export const PATH = '/usr/bin:/bin';

export const plan = (argv: string[], more: Partial<StartPlan> = {}): StartPlan => ({
  argv,
  environment: { PATH },
  directory: '/',
  user: undefined,
  bounds: UNBOUNDED,
  ...more,
});

export function collect(child: Child): { text: [string, string] } {
  const found: { text: [string, string] } = { text: ['', ''] };
  child.onOutput((stream, data) => {
    found.text[stream] += data.toString('latin1');
  });
  return found;
}

export async function outcome(child: Child): Promise<{ exitCode?: number; signal?: string; out: string; err: string }> {
  const { text } = collect(child);
  const { exitCode, signal } = await child.exited;
  await child.closed;
  return { ...(signal === undefined ? { exitCode } : { signal }), out: text[0], err: text[1] } as never;
}
