/**
 * The tiers this agent runs tasks in. Which they are is the operator's setting and what the machine can do; what a job
 * asks for is chosen among them, and never replaced by less.
 */
import { MeshError } from '../../../common/errors.js';
import { type JobBody } from '../../../proto/gen/mesh/v1/agent.js';
import { Sandbox } from '../../../proto/gen/mesh/v1/common.js';
import { NodeFault } from '../../core/types.js';
import type { Bounds } from './bounds.js';
import type { Cgroup, Cgroups } from './cgroups.js';
import type { Probe } from './probe.js';
import { processTier, type Tier, type TierName } from './tier.js';

/**
 * `auto`: the strongest that works, and no other. `optional`: that, and `process` for jobs that ask for it; what runs
 * unsandboxed beside sandboxed tasks of the same user sees what those are given. A name: this one and no other.
 */
export type SandboxSetting = 'auto' | 'optional' | TierName;

export class Tiers {
  /** The strongest first. */
  readonly #tiers: readonly Tier[];
  /** What no task may exceed here. */
  readonly bounds: Bounds;
  readonly #cgroups: Cgroups | undefined;

  constructor(tiers: readonly [Tier, ...Tier[]], bounds: Bounds, cgroups?: Cgroups) {
    this.#tiers = tiers;
    this.bounds = bounds;
    this.#cgroups = cgroups;
  }

  /** A control group for one whose memory is bounded, where this agent may make any. */
  cgroupFor(bounds: Bounds): Cgroup | undefined {
    return bounds.memoryBytes > 0 ? this.#cgroups?.create(bounds) : undefined;
  }

  get names(): TierName[] {
    return this.#tiers.map((tier) => tier.name);
  }

  get strongest(): Tier {
    return this.#tiers[0] as Tier;
  }

  /** @throws NodeFault when the job asks for a tier that is not here: the coordinator does not send such jobs */
  choose(body: Pick<JobBody, 'sandbox'>): Tier {
    const tier = this.offers(body);
    if (!tier) throw new NodeFault(`this node does not run tasks in the ${wanted(body)} tier`);
    return tier;
  }

  /** The one the job asks for; undefined when it is not here. */
  offers(body: Pick<JobBody, 'sandbox'>): Tier | undefined {
    if (body.sandbox === Sandbox.UNSPECIFIED) return this.strongest;
    return this.#tiers.find(({ name }) => name === wanted(body));
  }

  /** What holds in the strongest tier, as `mesh node` shows it. */
  get limits(): string[] {
    const isolated = this.strongest.name === 'bubblewrap';
    const hasProc = process.platform === 'linux';
    const memory = this.#cgroups ? ['memory:cgroup'] : hasProc ? ['memory:sampled'] : [];
    if (isolated) return [...memory, ...RLIMITS, 'processes:rlimit', 'network:namespace'];
    return [...memory, ...RLIMITS, ...(hasProc ? ['processes:sampled'] : [])];
  }
}

const wanted = ({ sandbox }: Pick<JobBody, 'sandbox'>): TierName =>
  sandbox === Sandbox.BUBBLEWRAP ? 'bubblewrap' : 'process';

const RLIMITS = ['cpu-time:rlimit', 'file-size:rlimit', 'open-files:rlimit'];

/**
 * @throws MeshError SANDBOX when the setting names bubblewrap and it does not work here
 */
export function chooseTiers(setting: SandboxSetting, probe: Probe | undefined): [Tier, ...Tier[]] {
  if (setting === 'process' || !probe) return [processTier];
  if ('tier' in probe) return setting === 'optional' ? [probe.tier, processTier] : [probe.tier];
  if (setting === 'bubblewrap') throw new MeshError('SANDBOX', probe.problem, { hint: probe.hint });
  return [processTier];
}
