import {
  DoctorServiceService as Definition,
  type DoctorServiceServer,
  type ExamineRequest,
  type ExamineResponse,
} from '../../proto/gen/mesh/v1/doctor.js';
import type { Finding } from '../../common/finding.js';
import type { Gate } from './authorize.js';

export interface DoctorPlane {
  /** Of the coordinator that is asked. */
  readonly name: string;
  examine(): Promise<Finding[]>;
}

export const makeDoctorService = (gate: Gate, plane: { doctor: DoctorPlane }): DoctorServiceServer => ({
  examine: gate.unary<ExamineRequest, ExamineResponse>(Definition.examine.path, async () => ({
    coordinator: plane.doctor.name,
    findings: await plane.doctor.examine(),
  })),
});
