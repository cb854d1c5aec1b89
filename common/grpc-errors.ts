import { Metadata, type ServiceError, status, type StatusObject } from '@grpc/grpc-js';
import { isErrorCode, MeshError, toMeshError } from './errors.js';

/** How a MeshError crosses gRPC: the status says the class, trailers say the code, the hint and where to go. */
const CODE = 'mesh-code';
const HINT = 'mesh-hint-bin';
const COORDINATORS = 'mesh-coordinators';
const RENEW = 'mesh-renew';
/** What an answer may name; anything beyond is not looked at. */
const COORDINATORS_MAX = 16;

/** Where the mesh may be reached, with the metadata of an answer. */
export function nameCoordinators(metadata: Metadata, coordinators: readonly string[]): Metadata {
  if (coordinators.length > 0) metadata.set(COORDINATORS, coordinators.join(' '));
  return metadata;
}

/** With the metadata of an answer: whoever asked should renew its certificate now, for this step of a rotation. */
export function askForRenewal(metadata: Metadata, generation: number): Metadata {
  if (generation > 0) metadata.set(RENEW, String(generation));
  return metadata;
}

export const isAskedToRenew = (metadata: Metadata): boolean => metadata.get(RENEW).length > 0;

export const namedCoordinators = (metadata: Metadata | undefined): string[] =>
  metadata?.get(COORDINATORS)[0]?.toString().split(' ').slice(0, COORDINATORS_MAX) ?? [];

/** A MeshError inside an answer, where it is the outcome of a part of what was asked. */
export interface CallErrorText {
  code: string;
  message: string;
  hint: string;
  coordinators: readonly string[];
}

export function toCallError(error: unknown): CallErrorText & { coordinators: string[] } {
  const { code, message, hint, coordinators } = toMeshError(error);
  return { code, message: code === 'INTERNAL' ? UNSAID : message, hint, coordinators: [...coordinators] };
}

export function fromCallError({ code, message, hint, coordinators }: CallErrorText): MeshError {
  if (!isErrorCode(code)) return new MeshError('INTERNAL', message || code);
  return new MeshError(code, message, { hint, coordinators: coordinators.slice(0, COORDINATORS_MAX) });
}

const UNSAID = 'internal error; the coordinator log says more';

export function toStatus(error: unknown): Partial<StatusObject> {
  const { code, message, hint, coordinators } = toCallError(error);
  const metadata = new Metadata();
  metadata.set(CODE, code);
  metadata.set(HINT, Buffer.from(hint));
  nameCoordinators(metadata, coordinators);
  return { code: toMeshError(error).grpcStatus, details: message, metadata };
}

/** The other side is of an earlier version, without this method. */
export const isUnimplemented = (error: unknown): boolean =>
  error instanceof MeshError && (error.cause as Partial<ServiceError> | undefined)?.code === status.UNIMPLEMENTED;

export function fromServiceError(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  const failure = error as Partial<ServiceError>;
  const code = failure.metadata?.get(CODE)[0];
  const hint = failure.metadata?.get(HINT)[0];
  if (isErrorCode(code)) {
    return new MeshError(code, failure.details ?? code, {
      ...{ cause: error, coordinators: namedCoordinators(failure.metadata) },
      ...(hint ? { hint: hint.toString() } : {}),
    });
  }
  switch (failure.code) {
    case status.UNAVAILABLE:
      return new MeshError('UNREACHABLE', `the coordinator cannot be reached (${failure.details})`, { cause: error });
    case status.UNAUTHENTICATED:
      return new MeshError('UNAUTHENTICATED', failure.details ?? 'no identity', { cause: error });
    case status.PERMISSION_DENIED:
      return new MeshError('DENIED', failure.details ?? 'denied', { cause: error });
    case status.DEADLINE_EXCEEDED:
      return new MeshError('TIMED_OUT', 'the coordinator did not answer in time', { cause: error });
    case status.CANCELLED:
      return new MeshError('INTERRUPTED', 'the call was cancelled', { cause: error });
    case status.RESOURCE_EXHAUSTED:
      return new MeshError('OVERLOADED', failure.details ?? 'too much at once', { cause: error });
    default:
      return new MeshError('INTERNAL', failure.details ?? String(error), { cause: error });
  }
}
