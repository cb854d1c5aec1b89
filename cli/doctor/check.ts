import type { Clock } from '../../common/clock.js';
import type { Finding } from '../../common/finding.js';
import type { MeshConnection } from '../../sdk/connect.js';

/** What the checks on this machine look at. */
export interface Bench {
  readonly environment: NodeJS.ProcessEnv;
  readonly clock: Clock;
  /** Where the profile is; undefined when there is none. */
  readonly profileDir: string | undefined;
  /** Undefined when the coordinator cannot be reached. Connects once, however often it is asked. */
  connection(): Promise<MeshConnection | undefined>;
  /** Why it cannot; asked after `connection`. */
  readonly failure: unknown;
  /** Data directories on this machine, of whatever runs here. */
  readonly dataDirs: { readonly coordinator: readonly string[]; readonly agent: readonly string[] };
}

/** Looks at one thing; what it found, good or bad. Nothing when it does not apply here. */
export type Check = (bench: Bench) => Promise<Finding[]> | Finding[];
