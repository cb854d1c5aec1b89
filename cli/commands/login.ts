import { userInfo } from 'node:os';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { systemClock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { isName, nameFrom } from '../../common/ids.js';
import { isOfMachines, ROLES } from '../../common/identity/identity.js';
import { silentLogger } from '../../common/log.js';
import { CredentialStore } from '../../link/credential-store.js';
import { formatEndpoint, parseEndpoint } from '../../link/endpoints.js';
import { join, type Joined } from '../../link/join.js';
import { meshIdIn, userProfileDir, writeProfile } from '../../sdk/profile.js';
import { exitOnInterrupt, makeCommand, optionsOf, parsedOption, print } from '../context.js';
import { safe } from '../render/terminal.js';

interface Options {
  coordinator?: string;
  name?: string;
}

function asAddress(text: string): string {
  parseEndpoint(text);
  return text;
}

function asName(text: string): string {
  if (!isName(text)) throw new MeshError('BAD_NAME', `"${text}" cannot be a name`);
  return text;
}

export function build(): Command {
  return makeCommand(
    'login',
    'Enrol yourself on this machine with a token, and write a profile for the other commands.',
    [
      'mesh login TOKEN',
      'mesh login TOKEN --coordinator 192.168.1.5',
      'mesh login TOKEN --profile ./lab && mesh jobs --profile ./lab',
    ],
  )
    .argument('<token>', 'what mesh token create printed')
    .addOption(parsedOption('--coordinator <host[:port]>', 'where to look; otherwise mDNS finds it', asAddress))
    .addOption(parsedOption('--name <name>', 'what the mesh should call you; otherwise your user name', asName))
    .action(async (token: string, _options: Options, command: Command) => {
      const options = optionsOf<Options>(command);
      exitOnInterrupt(options.json === true, 'nothing was written; the token may be spent');
      const directory = resolve(options.profile ?? (process.env.MESH_PROFILE || userProfileDir(process.env)));
      const joined = await enrol(token, options, directory);
      if (joined.role === 'agent')
        throw new MeshError('DENIED', 'the token was for an agent, and people are no agents', {
          hint: 'ask for one made with: mesh token create --role operator (or submitter, viewer)',
        });
      const coordinators = [...new Set([formatEndpoint(joined.endpoint), ...joined.coordinators])];
      new CredentialStore(directory, 'client').save(joined.credential);
      writeProfile(directory, { meshId: joined.meshId, coordinators });
      const { meshId, role, name } = joined;
      print(options, { meshId, role, name, profile: directory, coordinators }, () =>
        [`You are ${safe(name)}, ${role} of mesh ${safe(meshId)}.`, `The profile is in ${directory}.`, ''].join('\n'),
      );
    });
}

/** Logging in again is fine; replacing the way into another mesh by accident is not. */
const enrol = (token: string, options: Options, directory: string): Promise<Joined> =>
  join({
    meshId: meshIdIn(directory),
    token,
    roles: ROLES.filter((role) => !isOfMachines(role)),
    name: options.name ?? nameFrom(userInfo().username, 'user'),
    addresses: options.coordinator === undefined ? [] : [parseEndpoint(options.coordinator)],
    discover: options.coordinator === undefined,
    clock: systemClock,
    log: silentLogger,
  });
