import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';
import { systemClock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { defaultDataDir } from '../../common/files.js';
import { type Finding, isBad } from '../../common/finding.js';
import type { MeshConnection } from '../../sdk/connect.js';
import { findProfileDir } from '../../sdk/profile.js';
import {
  collect,
  exitOnInterrupt,
  type GlobalOptions,
  makeCommand,
  openConnection,
  optionsOf,
  print,
} from '../context.js';
import type { Bench } from '../doctor/check.js';
import { examine } from '../doctor/doctor.js';
import { paintStatus, safe } from '../render/terminal.js';

interface Options {
  security?: boolean;
  data?: string[];
}

export function build(): Command {
  return makeCommand(
    'doctor',
    'Look at this machine and the way to the mesh: profile, certificate, clocks, network, sandbox. With --security, at ' +
      'what is weak too, here and at the coordinator, each with what mends it. Exit code 1 when something is weak or does not work.',
    [
      'mesh doctor',
      'mesh doctor --security',
      'mesh doctor --security --data /var/lib/planetary-mesh/agent',
      'mesh doctor --security --json | jq -r \'.findings[] | select(.severity == "weak") | .fix\'',
    ],
  )
    .option('--security', 'list weak settings')
    .option(
      '--data <dir>',
      'with --security: a data directory to look at beside those at the usual places; may repeat',
      collect,
    )
    .action(async (_options: Options, command: Command) => {
      const options = optionsOf<Options>(command);
      exitOnInterrupt(options.json === true);
      checkData(options);
      const bench = new LocalBench(options);
      try {
        const findings = await examine(bench, { security: options.security === true });
        print(options, { sound: !findings.some(isBad), findings }, () => render(findings));
        if (findings.some(isBad)) process.exitCode = 1;
      } finally {
        await bench.close();
      }
    });
}

/** @throws MeshError USAGE */
function checkData({ data = [], security }: Options): void {
  if (data.length > 0 && !security)
    throw new MeshError('USAGE', '--data is looked at with --security only', { hint: 'add --security' });
  const gone = data.find((directory) => !existsSync(directory));
  if (gone !== undefined)
    throw new MeshError('USAGE', `--data: there is no ${gone}`, { hint: 'name a data directory of this machine' });
}

class LocalBench implements Bench {
  readonly environment = process.env;
  readonly clock = systemClock;
  readonly profileDir: string | undefined;
  readonly dataDirs: Bench['dataDirs'];
  failure: unknown;
  #connecting: Promise<MeshConnection | undefined> | undefined;

  constructor(private readonly options: Options & GlobalOptions) {
    this.profileDir = profileDirOf(options);
    const given = [
      defaultDataDir('coordinator', process.env),
      defaultDataDir('agent', process.env),
      ...(options.data ?? []),
    ];
    const here = [...new Set(given)].filter((path) => existsSync(path));
    const isCoordinator = (path: string): boolean => existsSync(join(path, 'ca'));
    this.dataDirs = { coordinator: here.filter(isCoordinator), agent: here.filter((path) => !isCoordinator(path)) };
  }

  connection(): Promise<MeshConnection | undefined> {
    this.#connecting ??= openConnection(this.options).catch((error: unknown) => {
      this.failure = error;
      return undefined;
    });
    return this.#connecting;
  }

  async close(): Promise<void> {
    await (await this.#connecting)?.close();
  }
}

function profileDirOf(options: GlobalOptions): string | undefined {
  try {
    return findProfileDir(options.profile, process.env);
  } catch (error) {
    if (toMeshError(error).code === 'NO_PROFILE') return undefined;
    throw error;
  }
}

const WIDTH = 'problem'.length;

function render(findings: readonly Finding[]): string {
  const lines = findings.flatMap(({ check, severity, found, fix }) => {
    const told = `${paintStatus(severity)}${' '.repeat(WIDTH - severity.length)}  ${safe(check)}`;
    const what = found === '' ? told : `${told}: ${safe(found)}`;
    return fix === '' ? [what] : [what, `${' '.repeat(WIDTH)}  fix: ${safe(fix)}`];
  });
  const weak = findings.filter(({ severity }) => severity === 'weak').length;
  const problems = findings.filter(({ severity }) => severity === 'problem').length;
  const sum = weak + problems === 0 ? 'nothing weak, nothing broken' : `${weak} weak, ${problems} broken`;
  return `${lines.join('\n')}\n${sum}\n`;
}
