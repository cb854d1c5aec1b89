/** The end of a job of two tasks, one of which takes long, for tests of second attempts. */
import type { Test } from 'tap';
import type { JobRow, Store } from '../../coordinator/ports.js';
import type { ManualClock } from './manual-clock.js';
import { elapse, type HeldTask, PlayedAgent, startPlane, submit, type TestPlane } from './plane.js';

export const config = { stragglerFactor: 2, stragglerFloor: 2000 };

export interface Scene extends TestPlane {
  slow: PlayedAgent;
  quick: PlayedAgent;
  job: JobRow;
  /** The one task that is left, on `slow`. */
  original: HeldTask;
}

export const held = (tasks: readonly HeldTask[]): HeldTask => {
  const [task] = tasks;
  if (!task) throw new Error('a task was assigned');
  return task;
};

export const beats = (...agents: PlayedAgent[]) => {
  return () => {
    for (const agent of agents) agent.beat();
  };
};

export async function start({ plane }: Pick<TestPlane, 'plane'>, agent: PlayedAgent, task: HeldTask, ageMs = 300) {
  plane.results.started(agent.session, [{ ...task, ageMs }]);
  await plane.results.settled();
}

/** Of a job of two tasks on two nodes with one slot each, one is done in no time and the other takes long. */
export async function scene(
  t: Test,
  options: { store?: Store; spec?: Parameters<typeof submit>[2]; clock?: ManualClock } = {},
) {
  const { store, clock } = options;
  const parts = await startPlane(t, { config, ...(store ? { store } : {}), ...(clock ? { clock } : {}) });
  const { plane } = parts;
  const agents = [new PlayedAgent(plane, 'attic', 1), new PlayedAgent(plane, 'cellar', 1)] as const;
  for (const agent of agents) await agent.connect();
  const job = await submit(plane, 2, { speculate: true, ...options.spec });
  const [slow, quick] = agents;
  const original = held(await slow.assigned());
  const other = held(await quick.assigned());
  await start(parts, slow, original);
  await quick.finish([other]);
  return { ...parts, slow, quick, job, original };
}

/** Waits until the straggler has its copy. */
export async function copied({ clock, slow, quick }: Scene): Promise<HeldTask> {
  const copy = quick.assigned();
  await elapse(clock, 4000, beats(slow, quick));
  return held(await copy);
}

export const outcomes = async ({ plane }: Scene): Promise<string[]> => {
  const { values } = await plane.metrics.copies.get();
  return values.flatMap(({ labels, value }) => (value > 0 ? [`${labels.outcome} ${value}`] : []));
};

export const taskOf = async ({ store, job, original }: Scene) =>
  (await store.tasks.list({ job: job.seq, fromIndex: original.index, limit: 1 }))[0];
