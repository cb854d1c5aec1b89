/** The program that starts processes for the agent, for tests of what it starts. */
import { silentLogger } from '../../common/log.js';
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
