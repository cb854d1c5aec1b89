/** A result that an agent has kept is told at every hello, until it is settled or nobody wants it any more. */
import type { Invariant, Violation } from './check.js';
import { attemptText, taskKey } from './runs.js';

interface Kept {
  job: string;
  index: number;
  generation: number;
  node: string;
}

const keyOf = (ref: Omit<Kept, 'node'>): string => `${taskKey(ref)}#${ref.generation}`;

export const nothingForgotten: Invariant = (history) => {
  const found: Violation[] = [];
  const kept = new Map<string, Kept>();
  const current = new Map<string, { generation: number; node: string }>();
  const over = new Set<string>();
  const isWanted = (result: Kept): boolean => {
    const now = current.get(taskKey(result));
    return !over.has(taskKey(result)) && (!now || (now.generation === result.generation && now.node === result.node));
  };
  const released = new Set<string>();
  const release = (key: string): void => {
    kept.delete(key);
    released.add(key);
  };
  for (const event of history) {
    if (event.kind === 'result-kept' && !released.has(keyOf(event))) kept.set(keyOf(event), event);
    else if (event.kind === 'attempt-settled') kept.delete(keyOf(event));
    else if (event.kind === 'task-terminal') over.add(taskKey(event));
    else if (event.kind === 'task-assigned') current.set(taskKey(event), event);
    if (event.kind === 'agent-released') for (const ref of event.attempts) release(keyOf(ref));
    if (event.kind !== 'agent-hello') continue;
    const told = new Set(event.unacknowledged.map(keyOf));
    for (const [key, result] of kept) {
      if (result.node !== event.node) continue;
      if (!isWanted(result)) kept.delete(key);
      else if (!told.has(key)) {
        kept.delete(key);
        const message = `the result of ${attemptText(result)} was kept and is not in the agent's hello`;
        found.push({ invariant: 'outbox', message, atMs: event.atMs });
      }
    }
  }
  return found;
};
