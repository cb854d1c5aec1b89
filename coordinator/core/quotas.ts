/**
 * What a namespace may still take, and how a refusal says which quota and its value. Two kinds of quota: what waits and
 * what is stored is refused when it is submitted, because nothing else would make it less; what runs is held back by the
 * planner, because it ends by itself. What could never run is refused, too.
 */
import { MeshError } from '../../common/errors.js';
import { formatSize } from '../../common/units.js';

/** What a namespace may take at most; undefined: as much as there is. */
export interface Quotas {
  /** Tasks assigned at a time, those prefilled to an agent included. */
  running: number | undefined;
  /** Tasks that wait. */
  queued: number | undefined;
  /** Thousandths of a CPU that assigned tasks ask for together. */
  cpuMillis: number | undefined;
  /** Of the files that its retained jobs were given. */
  bytes: number | undefined;
}

export const NO_QUOTAS: Quotas = { running: undefined, queued: undefined, cpuMillis: undefined, bytes: undefined };

/** What a namespace takes now, in the units of its quotas. */
export type Usage = { [Name in keyof Quotas]: number };

/** What the planner may still assign of a namespace. Infinity where there is no quota. */
export interface Allowance {
  tasks: number;
  cpuMillis: number;
}

export const holdsBack = ({ running, cpuMillis }: Quotas): boolean => running !== undefined || cpuMillis !== undefined;

/** Never negative: a quota may have been lowered below what runs. */
export const allowanceOf = (quotas: Quotas, usage: Pick<Usage, 'running' | 'cpuMillis'>): Allowance => ({
  tasks: Math.max(0, (quotas.running ?? Infinity) - usage.running),
  cpuMillis: Math.max(0, (quotas.cpuMillis ?? Infinity) - usage.cpuMillis),
});

/** How many tasks of this many thousandths of a CPU each the allowance has room for. */
export const allowed = (allowance: Allowance, cpuMillis: number): number =>
  Math.min(allowance.tasks, Math.floor(allowance.cpuMillis / cpuMillis));

/** How many such tasks the namespace may still be assigned; Infinity where there is no allowance. */
export function allowedTo(
  namespace: string | undefined,
  cpuMillis: number,
  allowances: ReadonlyMap<string, Allowance>,
): number {
  const allowance = allowances.size === 0 ? undefined : allowances.get(namespace ?? '');
  return allowance ? allowed(allowance, cpuMillis) : Infinity;
}

/** Which quota keeps one more task of this size from running; undefined when none does. */
export function whyHeldBack(
  namespace: string,
  quotas: Quotas,
  usage: Pick<Usage, 'running' | 'cpuMillis'>,
  cpuMillis: number,
): string | undefined {
  const allowance = allowanceOf(quotas, usage);
  if (allowance.tasks < 1)
    return `the namespace ${namespace} has its quota of ${quotas.running} running tasks assigned`;
  if (allowance.cpuMillis < cpuMillis)
    return `the namespace ${namespace} has ${usage.cpuMillis / 1000} of its quota of ${(quotas.cpuMillis as number) / 1000} CPUs assigned`;
  return undefined;
}

export interface Asked {
  tasks: number;
  /** Of each task. */
  cpuMillis: number;
  bytes: number;
}

/** @throws MeshError QUOTA that names the quota, its value and what is taken of it */
export function requireQuota(namespace: string, quotas: Quotas, usage: Usage, asked: Asked): void {
  const refuse = (quota: string, flag: string, value: string, state: string): never => {
    throw new MeshError('QUOTA', `the namespace ${namespace} has a quota of ${value} ${quota}; ${state}`, {
      hint: `ask for less, wait until some has ended, or have an operator change it: mesh namespace set ${namespace} --${flag} …`,
    });
  };
  if (quotas.cpuMillis !== undefined && asked.cpuMillis > quotas.cpuMillis)
    refuse('CPUs', 'cpus', String(quotas.cpuMillis / 1000), `one task of this job asks for ${asked.cpuMillis / 1000}`);
  if (quotas.queued !== undefined && usage.queued + asked.tasks > quotas.queued)
    refuse('queued tasks', 'queued', String(quotas.queued), `${usage.queued} wait, and this job has ${asked.tasks}`);
  if (quotas.bytes !== undefined && asked.bytes > 0 && usage.bytes + asked.bytes > quotas.bytes)
    refuse(
      'stored bytes',
      'bytes',
      formatSize(quotas.bytes),
      `${formatSize(usage.bytes)} are stored, and this job brings ${formatSize(asked.bytes)}`,
    );
}
