import type { Result } from './report.js';

export interface BenchOptions {
  /** Small and quick: only that it works counts. */
  smoke: boolean;
  runs: number;
  /** Overrides the bench's own number of tasks. */
  tasks: number | undefined;
  agents: number;
  /** A folder that is there, empty, and removed afterwards. */
  workDir: string;
  /** Says what is going on; goes to standard error. */
  say: (line: string) => void;
}

export interface Bench {
  name: string;
  about: string;
  run: (options: BenchOptions) => Promise<Result>;
}
