/** docs/audit.md, from the list of actions in the code. */
import { AUDIT_ACTIONS } from '../../coordinator/services/audit.js';

const INTRODUCTION = `# What is audited

Generated from [coordinator/services/audit.ts](../coordinator/services/audit.ts) by \`npm run docs\`; do not edit.

One entry each; what is counted has an entry at once and then one a minute with \`times\` in its detail. How the audit is read and
proven: [security.md](security.md#audit).

| action | what happened |
| --- | --- |
`;

export const auditPage = (): string =>
  INTRODUCTION +
  Object.entries(AUDIT_ACTIONS)
    .map(([action, what]) => `| \`${action}\` | ${what} |\n`)
    .join('');
