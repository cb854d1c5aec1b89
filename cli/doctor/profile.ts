import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { toMeshError } from '../../common/errors.js';
import { exposure, keysIn } from '../../common/exposure.js';
import { readIfExists } from '../../common/files.js';
import { finding } from '../../common/finding.js';
import { formatDuration } from '../../common/units.js';
import { readProfile } from '../../sdk/profile.js';
import type { Check } from './check.js';

/** Certificates renew themselves whenever a command runs after half of their life; with less than this left none did. */
const LEFT_MIN = 0.2;

export const profile: Check = ({ profileDir }) => {
  if (profileDir === undefined)
    return [finding('profile', 'problem', 'there is no profile on this machine', 'mesh login TOKEN, or --profile DIR')];
  try {
    const { meshId } = readProfile(profileDir);
    return [finding('profile', 'ok', `${profileDir}, mesh ${meshId}`)];
  } catch (error) {
    const { message, hint } = toMeshError(error);
    return [finding('profile', 'problem', message, hint)];
  }
};

export const profileModes: Check = ({ profileDir }) =>
  profileDir === undefined
    ? []
    : [
        ...exposure('profile.modes', 'owned', profileDir),
        ...keysIn(profileDir).flatMap((path) => exposure('profile.modes', 'secret', path)),
      ];

export const certificate: Check = ({ profileDir, clock }) => {
  const pem = profileDir === undefined ? undefined : readIfExists(join(profileDir, 'client.crt'));
  if (pem === undefined) return [];
  let validFrom: string;
  let validTo: string;
  try {
    ({ validFrom, validTo } = new X509Certificate(pem));
  } catch {
    return [finding('profile.certificate', 'problem', 'client.crt holds no certificate', 'mesh login TOKEN')];
  }
  const [fromMs, untilMs] = [Date.parse(validFrom), Date.parse(validTo)];
  const leftMs = untilMs - clock.wallMs();
  const until = new Date(untilMs).toISOString();
  if (leftMs <= 0)
    return [
      finding(
        'profile.certificate',
        'problem',
        `your certificate expired at ${until}`,
        'mesh login TOKEN, with a token that names you',
      ),
    ];
  const left = `your certificate holds for ${formatDuration(leftMs)}, until ${until}`;
  const late = leftMs < (untilMs - fromMs) * LEFT_MIN;
  return [
    late
      ? finding('profile.certificate', 'notice', `${left}, and was not renewed yet`, 'mesh nodes renews it')
      : finding('profile.certificate', 'ok', left),
  ];
};
