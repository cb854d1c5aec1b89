/** What `mesh doctor` finds, here and at a coordinator. */
export const SEVERITIES = ['ok', 'notice', 'weak', 'problem'] as const;

/**
 * - `ok`: it was looked at and is as it should be
 * - `notice`: worth knowing; a choice that some meshes make on purpose
 * - `weak`: it makes an attack easier, and there is a way to mend it
 * - `problem`: something does not work
 */
export type Severity = (typeof SEVERITIES)[number];

export const isSeverity = (text: string): text is Severity => (SEVERITIES as readonly string[]).includes(text);

export interface Finding {
  /** Dotted and stable: what was looked at. */
  check: string;
  severity: Severity;
  /** One sentence, with the names of what it is about. */
  found: string;
  /** What to type, or to do; empty where there is nothing to do. */
  fix: string;
}

export const finding = (check: string, severity: Severity, found: string, fix = ''): Finding => ({
  ...{ check, severity, found, fix },
});

/** Whether `mesh doctor` ends with 1 because of it. */
export const isBad = ({ severity }: Finding): boolean => severity === 'weak' || severity === 'problem';
