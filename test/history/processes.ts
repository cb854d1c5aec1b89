/** What ran where and when: I5, I7 and I8. */
import type { Invariant, Violation } from './check.js';
import type { History } from './events.js';
import { acknowledged } from './results.js';
import { attemptText, type Run, runsOf, helpless, taskKey, without } from './runs.js';

/**
 * I5: no process outlives its attempt. At the end nothing runs, except on a node whose agent was killed and has not
 * started again; and a restart of the agent ends what ran before it.
 */
export const cleanedUp: Invariant = (history, { slackMs }) => {
  const end = history.find((event) => event.kind === 'end');
  const found: Violation[] = [];
  const violated = (message: string, atMs: number) => found.push({ invariant: 'I5', message, atMs });
  const runs = runsOf(history);
  const killed = lastEvent(history, 'node-killed');
  const started = lastEvent(history, 'node-started');
  for (const run of end ? runs : []) {
    const isDown = (killed.get(run.node) ?? -1) > (started.get(run.node) ?? 0);
    if (run.endedMs > (end?.atMs ?? 0) && !isDown) violated(`${attemptText(run)} still runs`, run.beganMs);
  }
  const lives = new Map<string, number>();
  for (const event of history) {
    if (event.kind !== 'node-started') continue;
    if (lives.has(event.node))
      for (const run of runs)
        if (run.node === event.node && run.beganMs < event.atMs && run.endedMs > event.atMs + slackMs)
          violated(`${attemptText(run)} outlived the restart of its agent`, event.atMs);
    lives.set(event.node, event.atMs);
  }
  return found;
};

const lastEvent = (history: History, kind: 'node-killed' | 'node-started'): Map<string, number> =>
  new Map(history.flatMap((event, position) => (event.kind === kind ? [[event.node, position] as const] : [])));

/** I7: what runs on a node, with what is still dying there, never exceeds its slots. */
export const withinSlots: Invariant = (history) => {
  const found: Violation[] = [];
  const slots = new Map<string, number>();
  const used = new Map<string, number>();
  for (const event of history) {
    if (event.kind === 'node-started') slots.set(event.node, event.slots);
    if (event.kind !== 'attempt-began' && event.kind !== 'attempt-ended') continue;
    const now = (used.get(event.node) ?? 0) + (event.kind === 'attempt-began' ? 1 : -1);
    used.set(event.node, now);
    const most = slots.get(event.node);
    if (event.kind === 'attempt-began' && most !== undefined && now > most)
      found.push({
        invariant: 'I7',
        message: `${attemptText(event)} began as number ${now} on a node of ${most} slots`,
        atMs: event.atMs,
      });
  }
  return found;
};

/**
 * I8: two attempts of a `stop` task never run at the same true time on machines that are awake, with an agent that lives; of
 * a `keep` task only after a fault, or as straggler copies.
 */
export const neverTwiceAtOnce: Invariant = (history, { wakeGraceMs }) => {
  const jobs = acknowledged(history);
  const asleep = helpless(history, wakeGraceMs);
  const faultyMs = history.find((event) => event.kind === 'fault-injected')?.atMs ?? Number.POSITIVE_INFINITY;
  const found: Violation[] = [];
  const byTask = new Map<string, Run[]>();
  for (const run of runsOf(history)) {
    const earlier = byTask.get(taskKey(run)) ?? [];
    byTask.set(taskKey(run), [...earlier, run]);
    const job = jobs.get(run.job);
    if (!job) continue;
    for (const other of earlier) {
      const together = { fromMs: run.beganMs, toMs: Math.min(run.endedMs, other.endedMs) };
      if (together.fromMs >= together.toMs) continue;
      const holes = [...(asleep.get(run.node) ?? []), ...(asleep.get(other.node) ?? [])];
      const awake = without(together, holes)[0];
      const allowed = job.onDisconnect === 'stop' ? awake === undefined : job.speculate || together.fromMs >= faultyMs;
      if (allowed) continue;
      const length = Math.round((awake ?? together).toMs - (awake ?? together).fromMs);
      const message = `${attemptText(run)} ran beside ${attemptText(other)} for ${length} ms; the job says ${job.onDisconnect}`;
      found.push({ invariant: 'I8', message, atMs: (awake ?? together).fromMs });
    }
  }
  return found;
};
