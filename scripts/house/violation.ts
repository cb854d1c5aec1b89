export interface Violation {
  /** Relative to the tree that is checked. */
  path: string;
  line: number;
  /** Which rule, in a few words. */
  rule: string;
  what: string;
}

export const formatViolation = ({ path, line, rule, what }: Violation): string => `${path}:${line} ${rule}: ${what}`;
