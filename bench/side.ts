/** One contender of a comparison. */
export interface Side {
  name: string;
  /** What a person could set, as it was set: part of the report. */
  config: Record<string, string>;
  /** Runs this many no-op tasks; resolves to the milliseconds from submission to the last commit. */
  run(tasks: number): Promise<number>;
  stop(): Promise<void>;
}
