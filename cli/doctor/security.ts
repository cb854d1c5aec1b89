/** What `--security` adds: the files of this machine, what the coordinator finds about itself, and the audit. */
import { toMeshError } from '../../common/errors.js';
import { agentExposures, coordinatorExposures } from '../../common/exposure.js';
import { finding, isSeverity } from '../../common/finding.js';
import { verifyAudit } from '../../sdk/audit.js';
import { counted } from '../render/terminal.js';
import type { Check } from './check.js';

export const localFiles: Check = ({ dataDirs }) => [
  ...dataDirs.coordinator.flatMap((path) => coordinatorExposures('files.local', path)),
  ...dataDirs.agent.flatMap((path) => agentExposures('files.local', path)),
];

export const atTheCoordinator: Check = async (bench) => {
  const connection = await bench.connection();
  if (!connection) return [];
  try {
    const { findings } = await connection.doctor.examine({});
    return findings.map(({ check, severity, found, fix }) =>
      // A coordinator of another version may know more words.
      finding(check, isSeverity(severity) ? severity : 'notice', found, fix),
    );
  } catch (error) {
    const { code, message } = toMeshError(error);
    if (code !== 'DENIED') throw error;
    const fix = 'run it with the profile of an operator';
    return [finding('coordinator.settings', 'notice', `the coordinator tells operators only: ${message}`, fix)];
  }
};

export const auditChain: Check = async (bench) => {
  const connection = await bench.connection();
  if (!connection) return [];
  try {
    const { broken, entries } = await verifyAudit(connection.audit);
    if (!broken)
      return [finding('audit.verified', 'ok', `${counted(entries, 'entry', 'entries')}, none changed, none missing`)];
    const fix = 'mesh audit --verify, and find out who writes to the database';
    return [
      finding('audit.verified', 'problem', `entry ${broken.seq} of the audit is not in order: ${broken.why}`, fix),
    ];
  } catch (error) {
    // Said once, by the check before.
    if (toMeshError(error).code === 'DENIED') return [];
    throw error;
  }
};
