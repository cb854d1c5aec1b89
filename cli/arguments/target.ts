import { MeshError } from '../../common/errors.js';

/** `JOB`, a task `JOB.INDEX`, or an attempt `JOB.INDEX#N`; N counts from 1. */
export interface Target {
  job: string;
  index: number | undefined;
  attempt: number | undefined;
}

const UINT32_MAX = 2 ** 32 - 1;

/** @throws MeshError USAGE */
export function parseTarget(text: string): Target {
  const match = /^([A-Za-z0-9][A-Za-z0-9_-]{0,63})(?:\.(\d{1,10})(?:#(\d{1,10}))?)?$/.exec(text);
  const [index, attempt] = [match?.[2], match?.[3]].map((digits) =>
    digits === undefined ? undefined : Number(digits),
  );
  if (!match || (index ?? 0) > UINT32_MAX || attempt === 0 || (attempt ?? 0) > UINT32_MAX)
    throw new MeshError('USAGE', `"${text}" names no job, task or attempt`, {
      hint: 'write JOB, JOB.INDEX or JOB.INDEX#ATTEMPT',
    });
  return { job: match[1]!, index, attempt };
}

/** A job and nothing finer. @throws MeshError USAGE */
export function parseJob(text: string): string {
  const target = parseTarget(text);
  if (target.index !== undefined)
    throw new MeshError('USAGE', `"${text}" is a task, and this works on whole jobs`, { hint: `write ${target.job}` });
  return target.job;
}

/** A job or one of its tasks. @throws MeshError USAGE */
export function parseTask(text: string): Target {
  const target = parseTarget(text);
  if (target.attempt !== undefined)
    throw new MeshError('USAGE', `"${text}" is an attempt, and this works on tasks`, {
      hint: `write ${target.job}.${target.index}`,
    });
  return target;
}
