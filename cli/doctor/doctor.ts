/** The checks of `mesh doctor`, in the order in which they are told. */
import { toMeshError } from '../../common/errors.js';
import { type Finding, finding } from '../../common/finding.js';
import type { Bench, Check } from './check.js';
import { certificate, profile, profileModes } from './profile.js';
import { clockSkew, coordinator, discovery } from './reach.js';
import { sandbox } from './sandbox.js';
import { atTheCoordinator, auditChain, localFiles } from './security.js';

const BASIC: Readonly<Record<string, Check>> = {
  profile,
  'profile.modes': profileModes,
  'profile.certificate': certificate,
  coordinator,
  clock: clockSkew,
  discovery,
  sandbox,
};

const SECURITY: Readonly<Record<string, Check>> = {
  'files.local': localFiles,
  'coordinator.settings': atTheCoordinator,
  'audit.verified': auditChain,
};

/** One thing may be seen from two sides, such as a coordinator's files on this machine: who saw it first tells it. */
function withoutRepeats(findings: readonly Finding[]): Finding[] {
  const told = new Set<string>();
  return findings.filter(({ found, fix }) => found === '' || (!told.has(found + fix) && told.add(found + fix)));
}

/** A check that fails says so and keeps none of the others back. */
export async function examine(bench: Bench, options: { security: boolean }): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [name, check] of Object.entries({ ...BASIC, ...(options.security ? SECURITY : {}) })) {
    try {
      findings.push(...(await check(bench)));
    } catch (error) {
      const { message, hint } = toMeshError(error);
      findings.push(finding(name, 'problem', `it could not be looked at: ${message}`, hint));
    }
  }
  return withoutRepeats(findings);
}
