import {
  type FinishRotationRequest,
  type FinishRotationResponse,
  type GetRotationRequest,
  type GetRotationResponse,
  type Rotation as RotationMessage,
  type RotationServiceServer,
  RotationServiceService as Definition,
  type StartRotationRequest,
  type StartRotationResponse,
} from '../../proto/gen/mesh/v1/rotation.js';
import { actorOf } from '../services/audit.js';
import type { Rotation, RotationStatus } from '../services/rotation.js';
import type { Gate } from './authorize.js';

export interface RotationPlane {
  /** @throws MeshError NOT_LEADER */
  lead(): unknown;
}

export type Rotating = Pick<Rotation, 'begin' | 'status' | 'finish' | 'wants'>;

/** A rotation begins where the root key is, whoever leads; what comes after is the leader's. */
export function makeRotationService(gate: Gate, plane: RotationPlane, rotation: Rotating): RotationServiceServer {
  return {
    startRotation: gate.unary<StartRotationRequest, StartRotationResponse>(
      Definition.startRotation.path,
      async (_, context) => ({ rotation: present(await rotation.begin(actorOf(context))) }),
    ),
    getRotation: gate.unary<GetRotationRequest, GetRotationResponse>(Definition.getRotation.path, async () => {
      plane.lead();
      return { rotation: present(await rotation.status()) };
    }),
    finishRotation: gate.unary<FinishRotationRequest, FinishRotationResponse>(
      Definition.finishRotation.path,
      async ({ force }, context) => {
        plane.lead();
        return { rotation: present(await rotation.finish(actorOf(context), force)) };
      },
    ),
  };
}

const present = ({ phase, rootDigest, nextDigest, startedAtMs, done, laggards, canFinish }: RotationStatus) =>
  ({
    phase,
    root: rootDigest,
    nextRoot: nextDigest ?? '',
    startedAtMs,
    done,
    laggards,
    canFinish,
  }) satisfies RotationMessage;
