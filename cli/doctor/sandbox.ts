import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { finding } from '../../common/finding.js';
import type { Check } from './check.js';

const ANSWER_MS = 5000;

/** Only a machine that runs an agent needs it; where it is missing tasks run in the weaker tier. */
export const sandbox: Check = async ({ environment }) => {
  if (process.platform !== 'linux')
    return [finding('sandbox', 'notice', `there is no bubblewrap on ${process.platform}: tasks here run as processes`)];
  const run = promisify(execFile);
  const proof = ['--unshare-all', '--ro-bind', '/', '/', '--dev', '/dev', '--proc', '/proc', 'true'];
  try {
    const { stdout } = await run('bwrap', ['--version'], { timeout: ANSWER_MS, env: environment });
    await run('bwrap', proof, { timeout: ANSWER_MS, env: environment });
    return [finding('sandbox', 'ok', `${stdout.trim()} works`)];
  } catch (error) {
    const { code, stderr = '', message } = error as Error & { code?: unknown; stderr?: string };
    if (code === 'ENOENT')
      return [finding('sandbox', 'notice', 'bubblewrap is not installed on this machine', 'apt install bubblewrap')];
    const why = stderr.trim() || message;
    return [
      finding(
        'sandbox',
        'notice',
        `bubblewrap does not work on this machine: ${why.split('\n')[0]}`,
        'allow user namespaces: sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap',
      ),
    ];
  }
};
