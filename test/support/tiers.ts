/** The sandbox tiers of this machine, for tests that run in each of them. */
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { prepareTiers, type SandboxOptions } from '../../agent/executors/sandbox/prepare.js';
import { UNBOUNDED } from '../../agent/executors/sandbox/bounds.js';
import type { TierName } from '../../agent/executors/sandbox/tier.js';
import type { Tiers } from '../../agent/executors/sandbox/tiers.js';
import type { Bench } from './executor-bench.js';

export const tiersOf = (
  setting: TierName,
  { dataDir, workRoot, strays }: Pick<Bench, 'dataDir' | 'workRoot' | 'strays'>,
  more: Partial<SandboxOptions> = {},
): Promise<Tiers> =>
  prepareTiers(
    { setting, readable: [], bounds: UNBOUNDED, memoryDiskBytes: 16 << 20, ...more },
    { dataDir, workRoot, strays, clock: systemClock, log: silentLogger, hostname: () => 'node-1' },
  );
