/**
 * The tiers this agent runs tasks in. Which they are is the operator's setting and what the machine can do; what a job
 * asks for is chosen among them, and never replaced by less.
 */
import { MeshError } from '../../../common/errors.js';
import { type JobBody } from '../../../proto/gen/mesh/v1/agent.js';
import { Sandbox } from '../../../proto/gen/mesh/v1/common.js';
import { NodeFault } from '../../core/types.js';
import type { Bounds } from './bounds.js';
import type { Probe } from './probe.js';
import { processTier, type Tier, type TierName } from './tier.js';

/** `auto`: the strongest that works, and `process` for jobs that ask for it. A name: this one and no other. */
export type SandboxSetting = 'auto' | TierName;

export class Tiers {
  /** The strongest first. */
  readonly #tiers: readonly Tier[];
  /** What no task may exceed here. */
  readonly bounds: Bounds;

  constructor(tiers: readonly [Tier, ...Tier[]], bounds: Bounds) {
    this.#tiers = tiers;
    this.bounds = bounds;
  }

  get names(): TierName[] {
    return this.#tiers.map((tier) => tier.name);
  }

  get strongest(): Tier {
    return this.#tiers[0] as Tier;
  }

  /** @throws NodeFault when the job asks for a tier that is not here: the coordinator does not send such jobs */
  choose({ sandbox }: Pick<JobBody, 'sandbox'>): Tier {
    if (sandbox === Sandbox.UNSPECIFIED) return this.strongest;
    const wanted = sandbox === Sandbox.BUBBLEWRAP ? 'bubblewrap' : 'process';
    const tier = this.#tiers.find(({ name }) => name === wanted);
    if (!tier) throw new NodeFault(`this node does not run tasks in the ${wanted} tier`);
    return tier;
  }

  /** What holds in the strongest tier, as `mesh node` shows it. */
  get limits(): string[] {
    const isolated = this.strongest.name === 'bubblewrap';
    const sampled = process.platform === 'linux' ? ['memory:sampled'] : [];
    if (isolated) return [...sampled, ...RLIMITS, 'processes:rlimit', 'network:namespace'];
    return [...sampled, ...RLIMITS, ...(sampled.length > 0 ? ['processes:sampled'] : [])];
  }
}

const RLIMITS = ['cpu-time:rlimit', 'file-size:rlimit', 'open-files:rlimit'];

/**
 * @throws MeshError SANDBOX when the setting names bubblewrap and it does not work here
 */
export function makeTiers(setting: SandboxSetting, probe: Probe | undefined, bounds: Bounds): Tiers {
  if (setting === 'process' || !probe) return new Tiers([processTier], bounds);
  if ('tier' in probe) return new Tiers(setting === 'auto' ? [probe.tier, processTier] : [probe.tier], bounds);
  if (setting === 'bubblewrap') throw new MeshError('SANDBOX', probe.problem, { hint: probe.hint });
  return new Tiers([processTier], bounds);
}
