import type { Command } from 'commander';
import { type AuditHead } from '../../common/audit-chain.js';
import { systemClock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { asInteger } from '../../common/numbers.js';
import { type AuditVerdict, auditShape, verdictShape, verifyAudit } from '../../sdk/audit.js';
import type { MeshConnection } from '../../sdk/connect.js';
import { pageShape } from '../../sdk/shapes.js';
import { parseMoment } from '../arguments/when.js';
import {
  exitOnInterrupt,
  type GlobalOptions,
  makeCommand,
  optionsOf,
  parsedOption,
  print,
  withConnection,
} from '../context.js';
import { auditTable } from '../render/audit-view.js';
import { counted } from '../render/terminal.js';

interface Options {
  verify?: boolean;
  expect?: AuditHead;
  since?: number;
  until?: number;
  actor?: string;
  action?: string;
  target?: string;
  limit: number;
  cursor?: string;
}

const FILTERS = ['since', 'until', 'actor', 'action', 'target', 'cursor'] as const;

const asMoment = (text: string): number => parseMoment(text, systemClock.wallMs());

function asHead(text: string): AuditHead {
  const match = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text);
  if (!match)
    throw new MeshError('USAGE', `"${text.slice(0, 80)}" is no head`, {
      hint: 'write it as mesh audit --verify printed it: SEQ:HASH',
    });
  return { seq: Number(match[1]), hash: match[2] as string };
}

export function build(): Command {
  return makeCommand(
    'audit',
    'Who did what to what, from where, with which certificate; the latest first. With --verify: whether every entry ' +
      'is there as it was written. Exit code 1 when one is not.',
    [
      'mesh audit',
      'mesh audit --since 2d --actor operator/ --action certificate.',
      'mesh audit --verify',
      'mesh audit --verify --expect 1204:9f0c…      # a head that you kept',
      "mesh audit --json --limit 1000 | jq -r '.items[] | [.at, .actor, .action, .target] | @tsv'",
    ],
  )
    .option('--verify', 'read the whole chain and check it here')
    .addOption(parsedOption('--expect <seq:hash>', 'with --verify: a head that must be part of it', asHead))
    .addOption(parsedOption('--since <when>', 'only from then on: so long ago (2h), or a date', asMoment))
    .addOption(parsedOption('--until <when>', 'only before then', asMoment))
    .option('--actor <actor>', 'only by this one, such as operator/anna; by all of a role with operator/')
    .option('--action <action>', 'only this, such as token.created; all of a kind with token.')
    .option('--target <target>', 'only what was done to this')
    .addOption(
      parsedOption('--limit <n>', 'at most so many, 1 to 1000', asInteger(1, 1000), { value: 50, shown: '50' }),
    )
    .option('--cursor <cursor>', 'go on where a list ended: its "next"')
    .action(async (_options: Options, command: Command) => {
      const options = optionsOf<Options>(command);
      const filtered = FILTERS.find((name) => options[name] !== undefined);
      if (options.verify && filtered)
        throw new MeshError('USAGE', `--verify reads the whole chain; --${filtered} does not go with it`);
      if (options.expect && !options.verify) throw new MeshError('USAGE', '--expect goes with --verify');
      exitOnInterrupt(options.json === true);
      await withConnection(options, (connection) =>
        options.verify ? verify(options, connection) : list(options, connection),
      );
    });
}

async function list(options: Options & GlobalOptions, { audit }: MeshConnection): Promise<void> {
  const { actor = '', action = '', target = '', since: sinceMs, until: untilMs, limit, cursor = '' } = options;
  const { items, next } = await audit.listAudit({ actor, action, target, sinceMs, untilMs, limit, cursor });
  const page = pageShape(items.map(auditShape), next);
  print(options, page, () => {
    if (page.items.length === 0) return 'There is no such entry.\n';
    return auditTable(page.items) + (page.next === null ? '' : `There are more: --cursor ${page.next}\n`);
  });
}

async function verify(options: Options & GlobalOptions, { audit }: MeshConnection): Promise<void> {
  const verdict = await verifyAudit(audit, options.expect);
  print(options, verdictShape(verdict), () => verdictText(verdict));
  if (verdict.broken) process.exitCode = 1;
}

function verdictText({ entries, head, broken, kept }: AuditVerdict): string {
  const held = `coordinator ${kept.coordinator} holds ${kept.seq}:${kept.hash}\n`;
  const good = `${counted(entries, 'entry', 'entries')} in order`;
  if (!broken) return `${good}, none changed, none missing\nhead ${head.seq}:${head.hash}\n${held}`;
  return (
    `entry ${broken.seq} is not what was written: ${broken.why}\n${good} before it, up to ${head.seq}:${head.hash}\n${held}` +
    'Somebody changed the database past the coordinator, or an older state of it was restored.\n'
  );
}
