/**
 * Whether bubblewrap works here is not guessed from versions and settings: the tier is tried, as the user and with the
 * arguments that tasks will get, and what it keeps away is looked for from inside. A machine on which one of these
 * checks fails does not have the tier.
 */
import { access, constants, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { startHere } from '../child.js';
import { UNBOUNDED } from './bounds.js';
import { BubblewrapTier, type BubblewrapOptions } from './bubblewrap.js';
import type { Command } from './tier.js';

const CONTAINED = 'contained';

/** Must not be there unless something below is shown on purpose; beside them the agent's own key and lock. */
const HIDDEN = ['/etc/shadow', '/run', '/root', '/boot'];

/** Shell built-ins alone: nothing of what is looked for has to be installed. The arguments are what must be hidden. */
const CHECKS = `
for path; do
  if [ -e "$path" ]; then echo "$path can be seen"; exit; fi
done
set -- /proc/[0-9]*
if [ $# -gt 4 ]; then echo "other processes can be seen"; exit; fi
if ( : > /usr/mesh-probe ) 2>/dev/null; then echo "/usr can be written to"; exit; fi
if ( : > /mesh-probe ) 2>/dev/null; then echo "the root folder can be written to"; exit; fi
if ! ( : > ./mesh-probe ) 2>/dev/null; then echo "the task's own directory cannot be written to"; exit; fi
while read -r name rest; do
  case $name in Inter*|face*|lo:*) ;; *) echo "the network $name can be seen"; exit;; esac
done < /proc/net/dev
echo ${CONTAINED}
`;

export type Probe = { tier: BubblewrapTier } | { problem: string; hint: string };

export interface ProbeOptions extends Omit<BubblewrapOptions, 'program' | 'forbidsNesting'> {
  dataDir: string;
  /** An empty directory of the task's user. */
  directory: string;
  user: Command['user'];
  cookie: string;
  /** Where programs are looked for; the agent's PATH. */
  path?: string;
}

/** Never rejects: what goes wrong is why the tier is not there. */
export async function probeBubblewrap(options: ProbeOptions): Promise<Probe> {
  if (process.platform !== 'linux') return { problem: 'bubblewrap needs Linux', hint: 'use --sandbox process' };
  const program = await findProgram('bwrap', options.path ?? process.env.PATH ?? '');
  if (!program) return { problem: 'bubblewrap is not installed', hint: 'install it: apt install bubblewrap' };
  let problem = '';
  // An older one, or one that is installed setuid, cannot forbid namespaces inside its own; the rest holds all the same.
  for (const forbidsNesting of [true, false]) {
    const tier = new BubblewrapTier({ ...options, program, forbidsNesting });
    problem = await tryTier(tier, options);
    if (problem === '') return { tier };
  }
  return { problem: `bubblewrap does not work here: ${problem}`, hint: await remedy(problem) };
}

/** What is wrong, or nothing. */
async function tryTier(tier: BubblewrapTier, options: ProbeOptions): Promise<string> {
  const { dataDir, directory, user, cookie, readable } = options;
  const shown = [directory, ...readable];
  const hidden = HIDDEN.filter((path) => !shown.some((other) => `${other}/`.startsWith(`${path}/`)));
  const own = ['agent.key', 'agent.lock'].map((name) => join(dataDir, name));
  const argv = ['/bin/sh', '-c', CHECKS, 'probe', ...own, ...hidden];
  const bare = { environment: {}, gpus: [], net: false, bounds: UNBOUNDED };
  try {
    const contained = tier.start({ argv, directory, user, cookie, ...bare }, startHere);
    const { child, complaint } = contained;
    let said = '';
    child.onOutput((stream, data) => {
      if (stream === 0) said += data.toString();
      else complaint?.pass(data);
    });
    const exit = await child.exited;
    await child.closed;
    said = said.trim();
    const { exitCode, signal } = await contained.verdict(exit);
    if (said === CONTAINED && exitCode === 0) return '';
    return said || `the trial ended with ${signal ?? `exit code ${exitCode}`}`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

async function findProgram(name: string, path: string): Promise<string | undefined> {
  for (const folder of path.split(delimiter)) {
    if (!folder.startsWith('/')) continue;
    const candidate = join(folder, name);
    if (
      await access(candidate, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return candidate;
  }
  return undefined;
}

/** Settings of the kernel under which an ordinary user gets no namespaces, and what to do about them. */
const SYSCTLS: readonly [path: string, forbidding: string, fix: string][] = [
  ['kernel/unprivileged_userns_clone', '0', 'sysctl -w kernel.unprivileged_userns_clone=1'],
  ['kernel/apparmor_restrict_unprivileged_userns', '1', 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'],
  ['user/max_user_namespaces', '0', 'sysctl -w user.max_user_namespaces=15000'],
];

/** The kernel mounts a fresh /proc for an ordinary user only where the one there is whole. */
const HIDDEN_PROC =
  'parts of /proc are hidden or read-only here: in a systemd service leave out ProtectKernelTunables= and ' +
  'ProtectKernelLogs=, in a container unmask /proc';

async function remedy(problem: string): Promise<string> {
  if (/unknown option/i.test(problem)) return 'install bubblewrap 0.7 or later';
  if (/mount proc/i.test(problem)) return HIDDEN_PROC;
  for (const [path, forbidding, fix] of SYSCTLS) {
    const value = await readFile(`/proc/sys/${path}`, 'latin1').catch(() => '');
    if (value.trim() === forbidding) return `as root: ${fix}`;
  }
  return 'see "Sandbox" in docs/security.md';
}
