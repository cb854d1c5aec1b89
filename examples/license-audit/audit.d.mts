export interface Audit {
  package: string;
  version: string | null;
  /** An SPDX expression, or `unknown`. */
  license: string;
  source: 'package.json' | 'license text' | null;
  /** How many license files the package has. */
  files: number;
}

export function audit(value: { package: string; path: string }, context: { directory: string }): Promise<Audit>;
