/** What goes to which node, and what assignments carry beside the tasks: what their jobs' secrets are worth at that moment. */
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';
import type { Assigned } from '../ports.js';
import type { Jobs } from './jobs.js';
import type { Secrets, Values } from './secrets.js';

/** Only of jobs that have secrets. */
export type ValuesByJob = ReadonlyMap<number, Values>;

/** Asks nobody anything unless one of these jobs has secrets. @throws MeshError NOT_READY, DATABASE_DOWN */
export async function valuesFor(secrets: Secrets, jobs: Jobs, seqs: readonly number[]): Promise<ValuesByJob> {
  const uses = new Map<number, readonly SecretUse[]>();
  for (const seq of seqs) {
    const spec = jobs.get(seq)?.row.spec;
    if (spec && spec.secrets.length > 0) uses.set(seq, spec.secrets);
  }
  return secrets.read(uses);
}

/** Why attempts of the job cannot be given what they need; undefined when they can. */
export function problemOf(values: ValuesByJob, job: number): string | undefined {
  const found = values.get(job);
  return found && 'problem' in found ? found.problem : undefined;
}

export const valuesOf =
  (values: ValuesByJob) =>
  (job: number): Buffer[] => {
    const found = values.get(job);
    return found && 'values' in found ? found.values : [];
  };

/** What a node is told; nothing at first. */
export function toldOf(told: Map<number, Assigned>, node: number): Assigned {
  let given = told.get(node);
  if (!given) told.set(node, (given = { ranges: [], tasks: [] }));
  return given;
}
