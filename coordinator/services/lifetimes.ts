/** How long certificates live: what a mesh is set to, within what the profile allows. */
import { MeshError } from '../../common/errors.js';
import type { Role } from '../../common/identity/identity.js';
import { PROFILES } from '../../common/identity/profile.js';
import { formatDuration, parseDuration } from '../../common/units.js';

const DAY_MS = 86_400_000;
/** A certificate is renewed after half of its life at the earliest, and that takes a moment. */
const LIFE_MS_MIN = 5000;
const RECOVER_MS_MAX = 365 * DAY_MS;

export const formatDays = (ms: number): string => (ms % DAY_MS === 0 ? `${ms / DAY_MS} days` : formatDuration(ms));

/** @throws MeshError USAGE that names both bounds */
export const asLifetime =
  (role: Role) =>
  (text: string): number => {
    const ms = parseDuration(text);
    const { lifetimeMsMax } = PROFILES[role];
    if (ms >= LIFE_MS_MIN && ms <= lifetimeMsMax) return ms;
    throw new MeshError(
      'USAGE',
      `"${text}" is out of bounds: such a certificate lives for ${formatDuration(LIFE_MS_MIN)} to ${formatDays(lifetimeMsMax)}`,
      { hint: 'it renews itself; short lives cost little' },
    );
  };

/** 0 stands for never. @throws MeshError USAGE */
export function asRecoveryTime(text: string): number {
  const ms = text.trim() === '0' ? 0 : parseDuration(text);
  if (ms <= RECOVER_MS_MAX) return ms;
  throw new MeshError(
    'USAGE',
    `"${text}" is out of bounds: it is at most ${formatDays(RECOVER_MS_MAX)}, or 0 for never`,
  );
}

export interface LifetimeSettings {
  agentCertificateLife: number;
  coordinatorCertificateLife: number;
  userCertificateLife: number;
}

/** Of a certificate for which nobody asked for another. */
export function lifetimeOf(role: Role, settings: LifetimeSettings): number {
  switch (role) {
    case 'agent':
      return settings.agentCertificateLife;
    case 'coordinator':
      return settings.coordinatorCertificateLife;
    case 'metrics':
      return PROFILES.metrics.lifetimeMs;
    default:
      return settings.userCertificateLife;
  }
}
