/** docs/limits.md, from the table in which the limits are declared. */
import {
  BURST_SECONDS,
  FIXED_LIMITS,
  flagOf,
  formatLimit,
  type Limits,
  limitSettings,
} from '../../coordinator/services/limits.js';

const ABOUT: Record<string, string> = {
  Connections: 'Looked at by the door, before anything of a peer is believed.',
  Requests:
    'Of everybody who asks: counted by certificate role and name over all connections, or by address without one.',
  Agents:
    'Of what an agent says without being asked. None of these closes a session: they slow down the one that floods.',
  Jobs: 'Of what a job may be, bring, and leave behind.',
};

const head = `# Limits

Generated from the settings of \`mesh-coordinator\` by \`npm run docs\`; do not edit.

Every bound on what a peer, an identity or a job may take of a coordinator. Each is a flag, a \`MESH_*\` variable and a key of
the TOML file; \`mesh-coordinator --print-config\` shows the values in force. Two that cannot be together, or one out of its
range, are refused at the start in one line. A rate lets ${BURST_SECONDS} seconds' worth through at once. What one hostile
peer can cost at most, and which attacks these were tested with, is in [security.md](security.md#limits).
`;

const cell = (text: string): string => text.replaceAll('|', '\\|');

function section(group: string): string {
  const rows = Object.entries(limitSettings)
    .filter(([, limit]) => limit.group === group)
    .map(([key, { unit, fallback, min, max, describe, beyond, caveat }]) => {
      const range = `${formatLimit(unit, min)} to ${formatLimit(unit, max)}`;
      const cells = [
        `\`${flagOf(key as keyof Limits)}\``,
        formatLimit(unit, fallback),
        range,
        describe,
        beyond,
        caveat,
      ];
      return `| ${cells.map(cell).join(' | ')} |`;
    });
  const columns =
    '| setting | default | range | what it bounds | beyond it | in production |\n| --- | --- | --- | --- | --- | --- |';
  return `## ${group}\n${ABOUT[group]}\n\n${columns}\n${rows.join('\n')}\n`;
}

export function limitsPage(): string {
  const fixed = FIXED_LIMITS.map(([what, value]) => `| ${cell(what)} | ${cell(value)} |`).join('\n');
  return [
    head,
    ...Object.keys(ABOUT).map(section),
    `## Fixed\nBounds of the protocol, the same everywhere.\n\n| what | bound |\n| --- | --- |\n${fixed}\n`,
  ].join('\n');
}
