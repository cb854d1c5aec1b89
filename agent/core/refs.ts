/** References to attempts as they travel: three columns of one length. */
import type { TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { AttemptRef } from './types.js';

export const emptyRefs = (): TaskRefs => ({ jobs: [], indexes: [], generations: [] });

export function addRef(refs: TaskRefs, ref: AttemptRef): void {
  refs.jobs.push(ref.job);
  refs.indexes.push(ref.index);
  refs.generations.push(ref.generation);
}
