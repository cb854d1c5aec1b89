import type { Server } from '@grpc/grpc-js';
import { AgentServiceService } from '../../proto/gen/mesh/v1/agent.js';
import { CaServiceService } from '../../proto/gen/mesh/v1/ca.js';
import { AuditServiceService } from '../../proto/gen/mesh/v1/audit.js';
import { DoctorServiceService } from '../../proto/gen/mesh/v1/doctor.js';
import { EnrollServiceService } from '../../proto/gen/mesh/v1/enroll.js';
import { MeshServiceService, type ReadLogsResponse } from '../../proto/gen/mesh/v1/mesh.js';
import { NamespaceServiceService } from '../../proto/gen/mesh/v1/namespace.js';
import { NodeServiceService } from '../../proto/gen/mesh/v1/node.js';
import { SecretServiceService } from '../../proto/gen/mesh/v1/secret.js';
import { RotationServiceService } from '../../proto/gen/mesh/v1/rotation.js';
import type { Logger } from '../../common/log.js';
import type { AuditReader } from '../services/audit-reader.js';
import { type AgentPlane, makeAgentService } from './agent-service.js';
import { makeAuditService } from './audit-service.js';
import { type AuthorityPlane, makeCaService, makeEnrollService } from './authority-services.js';
import type { Clock } from '../../common/clock.js';
import type { Limits } from '../services/limits.js';
import { assertCovered, Gate, type GateOptions } from './authorize.js';
import { BufferCollection } from '../../common/buffer-collection.js';
import { type DoctorPlane, makeDoctorService } from './doctor-service.js';
import { decodeOutput, encodeLogs } from './log-message.js';
import { makeMeshService, type MeshPlane } from './mesh-service.js';
import { makeNamespaceService, type NamespacePlane } from './namespace-service.js';
import { makeNodeService, type NodePlane } from './node-service.js';
import { makeSecretService, type SecretPlane } from './secret-service.js';
import { makeRotationService, type Rotating } from './rotation-service.js';

type Plane = AgentPlane &
  MeshPlane &
  NodePlane &
  AuthorityPlane &
  NamespacePlane &
  SecretPlane & { auditReader: AuditReader; doctor: DoctorPlane } & Pick<GateOptions, 'denylist' | 'audit'>;

/** Of a message of output two buffers are made: of one that comes, its frames and the whole; of one that goes, what was read and its frame. */
const OUTPUT_COPIES = 2;

/** Output goes its way without copies that nobody needs, and without waiting for V8 to look for what it leaves behind. */
function outputMethods(buffers: BufferCollection) {
  const { streamLogs } = AgentServiceService;
  const { readLogs } = MeshServiceService;
  return {
    streamLogs: {
      ...streamLogs,
      requestDeserialize: (message: Buffer) => {
        buffers.made(OUTPUT_COPIES * message.length);
        return decodeOutput(message);
      },
    },
    readLogs: {
      ...readLogs,
      responseSerialize: (response: ReadLogsResponse) => {
        const message = encodeLogs(response);
        buffers.made(OUTPUT_COPIES * message.length);
        return message.serialized;
      },
    },
  };
}

/** Puts every service on a gRPC server, each method behind the gate. */
export function registerServices(
  server: Server,
  plane: Plane,
  options: {
    meshId: string;
    rotation: Rotating;
    peerOf: GateOptions['peerOf'];
    throttle: GateOptions['throttle'];
    limits: Limits;
    clock: Clock;
    log: Logger;
  },
): void {
  const { meshId, peerOf, throttle, limits, clock, log, rotation } = options;
  const { roster, denylist, audit } = plane;
  const coordinators = () => (roster.alone ? [] : roster.addresses());
  const renewalWanted = (serial: string) => rotation.wants(serial);
  const gate = new Gate({ peerOf, denylist, audit, throttle, log, coordinators, renewalWanted });
  const { streamLogs, readLogs } = outputMethods(new BufferCollection());
  const services = [
    [{ ...AgentServiceService, streamLogs }, makeAgentService({ plane, gate, throttle, limits, clock, log })],
    [{ ...MeshServiceService, readLogs }, makeMeshService({ plane, gate })],
    [NodeServiceService, makeNodeService(gate, plane)],
    [CaServiceService, makeCaService(gate, plane)],
    [NamespaceServiceService, makeNamespaceService(gate, plane)],
    [AuditServiceService, makeAuditService(gate, plane)],
    [DoctorServiceService, makeDoctorService(gate, plane)],
    [SecretServiceService, makeSecretService(gate, plane)],
    [EnrollServiceService, makeEnrollService(gate, plane, meshId)],
    [RotationServiceService, makeRotationService(gate, plane, rotation)],
  ] as const;
  for (const [definition, implementation] of services) {
    assertCovered(definition, implementation);
    server.addService(definition, implementation);
  }
}
