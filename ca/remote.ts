/**
 * The authority inside a running coordinator, reached with the operator's profile. The client library is loaded only when
 * it is needed: it costs more than everything else `mesh-ca` does.
 */
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { MeshError } from '../common/errors.js';
import { chainFromPem } from '../common/identity/chain.js';
import { readRoots } from '../common/identity/roots.js';
import { writeFileAtomic } from '../common/files.js';
import type {
  Desk,
  DeskAnswer,
  DeskCertificate,
  DeskRequest,
  OwnFiles,
  RemoteOptions,
  RotationAnswer,
  RotationDesk,
} from './desk.js';
import { readPrivateKeyFile } from './keys.js';

interface CertificateMessage {
  serial: string;
  role: string;
  name: string;
  notBeforeMs: number;
  notAfterMs: number;
  fingerprint: string;
  revokedAtMs?: number | undefined;
}

interface IssuedMessage {
  certificateChain: string;
  root: string;
}

/** What we use of the client library's connection. */
interface Connection {
  ca: {
    issue(request: { name: string; role: string; csr: Buffer; days: number }): Promise<IssuedMessage>;
    renew(request: { csr: Buffer }): Promise<IssuedMessage>;
    revoke(request: { nameOrSerial: string }): Promise<{ revoked: CertificateMessage[] }>;
    listCertificates(request: Record<string, never>): Promise<{ items: CertificateMessage[] }>;
    getCrl(request: Record<string, never>): Promise<{ crl: Buffer }>;
  };
  rotation: {
    startRotation(request: Record<string, never>): Promise<RotationMessage>;
    getRotation(request: Record<string, never>): Promise<RotationMessage>;
    finishRotation(request: { force: boolean }): Promise<RotationMessage>;
  };
  close(): Promise<void> | void;
}

interface RotationMessage {
  rotation?: RotationAnswer | undefined;
}

async function connectTo(options: RemoteOptions): Promise<Connection> {
  const { connect } = await import('../sdk/connect.js');
  return connect({
    ...(options.profile === undefined ? {} : { profile: options.profile }),
    ...(options.coordinator === undefined ? {} : { coordinator: options.coordinator }),
  });
}

const answer = (message: IssuedMessage): DeskAnswer => ({
  chainPem: message.certificateChain,
  rootPem: message.root,
});

const shown = (message: CertificateMessage): DeskCertificate => ({ ...message, revokedAtMs: message.revokedAtMs });

/** @throws MeshError NO_PROFILE, UNREACHABLE, UNAUTHENTICATED */
export async function openRemoteDesk(options: RemoteOptions): Promise<Desk> {
  const connection = await connectTo(options);
  return {
    async issue(request: DeskRequest) {
      const { name, role, csr, days } = request;
      return answer(await connection.ca.issue({ name, role, csr, days: days ?? 0 }));
    },
    async list() {
      return (await connection.ca.listCertificates({})).items.map(shown);
    },
    async revoke(nameOrSerial) {
      return (await connection.ca.revoke({ nameOrSerial })).revoked.map(shown);
    },
    async crl() {
      return (await connection.ca.getCrl({})).crl;
    },
    async close() {
      await connection.close();
    },
  };
}

/** @throws MeshError NO_PROFILE, UNREACHABLE, UNAUTHENTICATED, DENIED */
export async function openRotationDesk(options: RemoteOptions): Promise<RotationDesk> {
  const connection = await connectTo(options);
  const { rotation } = connection;
  const of = (message: RotationMessage): RotationAnswer => {
    if (!message.rotation) throw new MeshError('INTERNAL', 'the coordinator answered with nothing');
    return message.rotation;
  };
  return {
    start: async () => of(await rotation.startRotation({})),
    get: async () => of(await rotation.getRotation({})),
    finish: async (force) => of(await rotation.finishRotation({ force })),
    close: async () => connection.close(),
  };
}

/**
 * Renews a certificate by presenting it: the coordinator gives the same identity a new one. The root is the `ca.crt`
 * beside the certificate.
 * @throws MeshError NOT_FOUND, UNREACHABLE, UNAUTHENTICATED
 */
export async function renewOwn(own: OwnFiles, csr: Buffer, options: RemoteOptions): Promise<DeskAnswer> {
  const root = join(dirname(own.certificate), 'ca.crt');
  if (!existsSync(root))
    throw new MeshError('NOT_FOUND', `there is no ca.crt beside ${own.certificate}`, {
      hint: 'put the root certificate there: mesh-ca export --dir D > ca.crt',
    });
  const profile = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
  try {
    const meshId = readRoots(readFileSync(root, 'utf8')).meshId;
    copyFileSync(own.certificate, join(profile, 'client.crt'));
    writeFileAtomic(
      join(profile, 'client.key'),
      readPrivateKeyFile(own.key).export({ type: 'pkcs8', format: 'pem' }),
      0o600,
    );
    copyFileSync(root, join(profile, 'ca.crt'));
    const content = { meshId, coordinators: options.coordinator ? [options.coordinator] : [] };
    writeFileAtomic(join(profile, 'profile.json'), JSON.stringify(content), 0o600);
    const connection = await connectTo({ profile, coordinator: options.coordinator });
    try {
      const renewed = answer(await connection.ca.renew({ csr }));
      chainFromPem(renewed.chainPem);
      return renewed;
    } finally {
      await connection.close();
    }
  } finally {
    rmSync(profile, { recursive: true, force: true });
  }
}
