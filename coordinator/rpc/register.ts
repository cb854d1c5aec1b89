import type { Server } from '@grpc/grpc-js';
import { AgentServiceService } from '../../proto/gen/mesh/v1/agent.js';
import { CaServiceService } from '../../proto/gen/mesh/v1/ca.js';
import { EnrollServiceService } from '../../proto/gen/mesh/v1/enroll.js';
import { MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import type { Logger } from '../../common/log.js';
import { type AgentServiceOptions, makeAgentService } from './agent-service.js';
import { makeCaService, makeEnrollService } from './authority-services.js';
import { assertCovered, Gate, type GateOptions } from './authorize.js';
import { makeMeshService, type MeshServiceOptions } from './mesh-service.js';
import type { Enrollment } from '../services/enrollment.js';
import type { Issuance } from '../services/issuance.js';

type Parts = Omit<AgentServiceOptions, 'gate' | 'log'> &
  Omit<MeshServiceOptions, 'gate'> & { enrollment: Enrollment; issuance: Issuance; denylist: GateOptions['denylist'] };

/** Puts every service on a gRPC server, each method behind the gate. */
export function registerServices(
  server: Server,
  parts: Parts,
  options: { meshId: string; coordinators: () => string[]; peerOf: GateOptions['peerOf']; log: Logger },
): void {
  const gate = new Gate({ peerOf: options.peerOf, denylist: parts.denylist, log: options.log });
  const { issuance, enrollment } = parts;
  const enroll = { enrollment, rootPem: issuance.rootPem, meshId: options.meshId, coordinators: options.coordinators };
  const services = [
    [AgentServiceService, makeAgentService({ ...parts, gate, log: options.log })],
    [MeshServiceService, makeMeshService({ ...parts, gate })],
    [CaServiceService, makeCaService(gate, issuance)],
    [EnrollServiceService, makeEnrollService(gate, enroll)],
  ] as const;
  for (const [definition, implementation] of services) {
    assertCovered(definition, implementation);
    server.addService(definition, implementation);
  }
}
