/** What a coordinator finds weak about itself and its mesh: every check of this folder, asked by `mesh doctor --security`. */
import { toMeshError } from '../../../common/errors.js';
import { type Finding, finding } from '../../../common/finding.js';
import { approval, certificates, nodes, recovery, tokens, unsandboxed } from './access.js';
import type { Check, Examined } from './check.js';
import { caKeys, fileModes } from './keys.js';
import { audit, database, quotas } from './state.js';

const CHECKS: Readonly<Record<string, Check>> = {
  'files.modes': fileModes,
  'ca.keys': caKeys,
  'tokens.open': tokens,
  'certificates.life': certificates,
  'nodes.approval': approval,
  'recovery.window': recovery,
  'nodes.sandbox': nodes,
  'nodes.unsandboxed': unsandboxed,
  'database.tls': database,
  'quotas.unlimited': quotas,
  'audit.chain': audit,
};

/** One finding or more for each check; one that fails says so and keeps none of the others back. */
export async function examine(mesh: Examined): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [name, check] of Object.entries(CHECKS)) {
    try {
      const found = await check(mesh);
      findings.push(...(found.length > 0 ? found : [finding(name, 'ok', '')]));
    } catch (error) {
      const { message, hint } = toMeshError(error);
      findings.push(finding(name, 'problem', `it could not be looked at: ${message}`, hint));
    }
  }
  return findings;
}
