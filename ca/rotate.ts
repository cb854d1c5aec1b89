/** `mesh-ca rotate`: replaces the root of a running mesh, through its coordinator. */
import type { Command } from 'commander';
import { Option } from 'commander';
import { pause, systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { withExamples } from '../common/program.js';
import { formatDuration, parseDuration } from '../common/units.js';
import type { Remote, RemoteOptions, RotationAnswer, RotationDesk } from './desk.js';
import { present } from './render.js';

interface RotateOptions extends RemoteOptions {
  json?: boolean;
}

type LoadRemote = () => Promise<Remote>;

const LOOK_MS = 1000;
const OVERLAP_MS = 600_000;
const NAMES_MAX = 20;

const iso = (ms: number): string => new Date(ms).toISOString();

const shown = ({ phase, root, nextRoot, startedAtMs, done, laggards, canFinish }: RotationAnswer) => ({
  ...{ phase, root, nextRoot: nextRoot === '' ? null : nextRoot },
  startedAt: startedAtMs === undefined ? null : iso(startedAtMs),
  ...{ done, canFinish },
  missing: laggards.map(({ role, name, live, untilMs, missing }) => ({
    ...{ role, name, live, missing },
    until: untilMs === 0 ? null : iso(untilMs),
  })),
});

const PHASES: Record<string, string> = {
  steady: 'no rotation is under way',
  spreading: 'everybody is told of the new root',
  moving: 'everybody gets a certificate of the new root',
};

export function rotationText(rotation: RotationAnswer): string {
  const { phase, root, nextRoot, done, laggards, canFinish } = rotation;
  const lines = [`${phase}: ${PHASES[phase] ?? phase}`, `root      ${root}`];
  if (nextRoot !== '') lines.push(`new root  ${nextRoot}`, `done      ${done}, missing ${laggards.length}`);
  else if (laggards.length > 0) lines.push(`settling  ${laggards.length} trust the old root still`);
  for (const { role, name, live, untilMs, missing } of laggards.slice(0, NAMES_MAX)) {
    const state = live ? 'live' : untilMs === 0 ? '' : `until ${iso(untilMs)}`;
    lines.push(`  ${role} ${name}: ${missing}${state === '' ? '' : ` (${state})`}`);
  }
  if (laggards.length > NAMES_MAX) lines.push(`  and ${laggards.length - NAMES_MAX} more`);
  if (canFinish) lines.push('nobody needs the old root any more: mesh-ca rotate finish');
  return `${lines.join('\n')}\n`;
}

/** What a look at it says, in one line; said again only when it has changed. */
function progressOf({ phase, done, laggards }: RotationAnswer): string {
  const names = laggards.slice(0, 3).map(({ role, name }) => `${role} ${name}`);
  const more = laggards.length > 3 ? ` and ${laggards.length - 3} more` : '';
  const waits = names.length === 0 ? '' : `; waiting for ${names.join(', ')}${more}`;
  return `${PHASES[phase] ?? phase}: ${done} done${waits}\n`;
}

async function withRotation<T>(
  options: RotateOptions,
  remote: LoadRemote,
  work: (desk: RotationDesk) => Promise<T>,
): Promise<T> {
  const desk = await (await remote()).openRotationDesk(options);
  try {
    return await work(desk);
  } finally {
    await desk.close();
  }
}

/** Begins one, or joins the one under way, and sees it to its end: not before the overlap is over and nobody is missing. */
async function rotate(desk: RotationDesk, overlapMs: number): Promise<RotationAnswer> {
  let rotation = await desk.start();
  let said = '';
  for (;;) {
    const line = progressOf(rotation);
    if (line !== said) process.stderr.write(line);
    said = line;
    if (rotation.phase === 'steady') return rotation;
    const leftMs = (rotation.startedAtMs ?? 0) + overlapMs - systemClock.wallMs();
    if (rotation.canFinish && leftMs <= 0) return desk.finish(false);
    await pause(systemClock, LOOK_MS);
    rotation = await desk.get();
  }
}

function asOverlap(text: string): number {
  try {
    return parseDuration(text);
  } catch (error) {
    throw new MeshError('USAGE', `--overlap: ${(error as Error).message}`);
  }
}

const addOptions = (command: Command): Command =>
  command
    .option('--profile <dir>', 'the profile to reach the coordinator with [MESH_PROFILE]')
    .addOption(new Option('--coordinator <host[:port]>', 'where the coordinator is').env('MESH_COORDINATOR'))
    .addOption(new Option('--json', 'one JSON document on standard output'));

/** Options that stand before a subcommand belong to it too. */
const optionsOf = (command: Command): RotateOptions => command.optsWithGlobals();

export function addRotate(program: Command, remote: LoadRemote): void {
  const command = addOptions(
    program
      .command('rotate')
      .description('replace the root of a running mesh by a new one, and see it through; interrupted, it goes on')
      .addOption(
        new Option('--overlap <duration>', 'how long both are trusted at least, for those who are away')
          .argParser(asOverlap)
          .default(OVERLAP_MS, '10m'),
      ),
  ).action(async (options: RotateOptions & { overlap: number }, self: Command) => {
    process.once('SIGINT', () => {
      process.stderr.write('the rotation goes on without this command; see: mesh-ca rotate status\n');
      process.exit(130);
    });
    const rotation = await withRotation(optionsOf(self), remote, (desk) => rotate(desk, options.overlap));
    present(options, shown(rotation), () => `the root of the mesh is ${rotation.root} now; the old one is gone\n`);
  });
  withExamples(command, [
    'mesh-ca rotate',
    `mesh-ca rotate --overlap 7d   # ${formatDuration(OVERLAP_MS)} unless given`,
    'mesh-ca rotate start && mesh-ca rotate status',
    'mesh-ca rotate finish',
  ]);
  const add = (
    name: string,
    description: string,
    ask: (desk: RotationDesk, self: Command) => Promise<RotationAnswer>,
  ) => {
    const part = addOptions(command.command(name).description(description)).action(async (_: object, self: Command) => {
      const options = optionsOf(self);
      const rotation = await withRotation(options, remote, (desk) => ask(desk, self));
      present(options, shown(rotation), () => rotationText(rotation));
    });
    withExamples(part, [`mesh-ca rotate ${name}`, `mesh-ca rotate ${name} --json`]);
    return part;
  };
  add('start', 'make the new root, and leave the rest to the coordinators', (desk) => desk.start());
  add('status', 'show how far it is, and who is missing', (desk) => desk.get());
  add('finish', 'take the old root away; refused with names while somebody needs it', (desk, self) =>
    desk.finish(self.opts<{ force?: boolean }>().force === true),
  ).addOption(new Option('--force', 'do so all the same: whoever is missing needs a token or a login then'));
}
