import type { Result } from './report.js';

export interface BenchOptions {
  /** Small and quick: only that it works counts. */
  smoke: boolean;
  runs: number;
  /** Overrides the bench's own number of tasks. */
  tasks: number | undefined;
  agents: number;
  /** How long a bench lasts that goes on for a time. */
  minutes: number;
  /** Tasks a second of a bench that goes on for a time; undefined: as fast as it goes. */
  rate: number | undefined;
  /** A folder that is there, empty, and removed afterwards. */
  workDir: string;
  /** Says what is going on; goes to standard error. */
  say: (line: string) => void;
}

export interface Bench {
  name: string;
  about: string;
  /** Left out unless it is named: it prepares another bench. */
  byNameOnly?: boolean;
  run: (options: BenchOptions) => Promise<Result>;
}
