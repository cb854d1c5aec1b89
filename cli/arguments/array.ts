import { MeshError } from '../../common/errors.js';
import { TASKS_MAX } from '../../sdk/limits.js';

export interface ArrayRange {
  start: number;
  step: number;
  count: number;
}

const WRITE_IT = 'write it like 0-99, or 0-99:3 for every third';

/**
 * `A-B` or `A-B:STEP`, both ends included: MESH_INDEX of task i is A + i · STEP.
 * @throws MeshError USAGE when it does not parse, counts down, or makes more than TASKS_MAX tasks
 */
export function parseArray(text: string): ArrayRange {
  const match = /^(\d+)-(\d+)(?::(\d+))?$/.exec(text.trim());
  if (!match) throw new MeshError('USAGE', `"${text}" is not a range`, { hint: WRITE_IT });
  const [first, last, step] = [BigInt(match[1]!), BigInt(match[2]!), BigInt(match[3] ?? '1')];
  if (step === 0n) throw new MeshError('USAGE', `the step of "${text}" is 0`, { hint: WRITE_IT });
  if (last < first) throw new MeshError('USAGE', `"${text}" counts down`, { hint: `write it as ${last}-${first}` });
  const count = (last - first) / step + 1n;
  if (count > BigInt(TASKS_MAX))
    throw new MeshError('USAGE', `"${text}" would make ${count} tasks`, {
      hint: `a job has at most ${TASKS_MAX}; submit parts of it, or give each task more to do`,
    });
  if (last > BigInt(Number.MAX_SAFE_INTEGER) || step > BigInt(Number.MAX_SAFE_INTEGER))
    throw new MeshError('USAGE', `the numbers of "${text}" are too large`, {
      hint: `stay below ${Number.MAX_SAFE_INTEGER}`,
    });
  return { start: Number(first), step: Number(step), count: Number(count) };
}
