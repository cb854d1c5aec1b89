/**
 * Makes certificates byte by byte, so that every byte can be wrong: what the CA's own builder cannot say (unknown versions,
 * damaged encodings, parts that do not belong) is said here. What is not changed is as the CA would make it.
 */
import { createPrivateKey, type KeyObject, sign, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Authority, type Certified, makeIssuer, makeRoot } from '../../ca/authority.js';
import { profileExtensions, randomSerial } from '../../ca/policy.js';
import { type ExtensionTemplate, nameDer, subjectAltName, toPem, uriName } from '../../ca/x509/certificate.js';
import { extensionDer } from '../../ca/x509/crl.js';
import { fieldsOf, readMeshId } from '../../common/identity/check.js';
import {
  contextTag,
  TAG,
  writeBitString,
  writeDer,
  writeOid,
  writeSequence,
  writeTime,
} from '../../common/identity/der.js';
import type { Role } from '../../common/identity/identity.js';
import { ECDSA_SHA256, type KeyPair, makeKeyPair } from '../../common/identity/keys.js';
import type { Credential } from '../../link/credentials.js';
import type { CertificateKind } from '../../common/identity/profile.js';

const HOUR_MS = 3_600_000;

/** A certificate in parts, each encoded already unless it says otherwise. */
export interface Draft {
  /** Undefined leaves it out, which means version 1. */
  version: Buffer | undefined;
  serial: Buffer;
  algorithm: Buffer;
  /** Beside the signature; the same as inside when absent. */
  outerAlgorithm?: Buffer;
  issuer: Buffer;
  notBefore: Buffer;
  notAfter: Buffer;
  subject: Buffer;
  publicKey: Buffer;
  /** Of `publicKey`, where that is another than the usual. */
  holder?: KeyObject;
  /** Not encoded yet: their order, and what each holds. */
  extensions: readonly ExtensionTemplate[];
  /** Between the key and the extensions, or after them. */
  more: readonly Buffer[];
  signer: KeyObject;
  hash: string;
  /** Of the finished encoding. */
  finish: (der: Buffer) => Buffer;
}

export type Change = (draft: Draft, forger: Forger, role: Role) => Partial<Draft>;

export interface Forged {
  der: Buffer;
  key: KeyObject;
}

export const integer = (...bytes: number[]): Buffer => writeDer(TAG.integer, Buffer.from(bytes));
export const explicitVersion = (value: Buffer): Buffer => writeDer(contextTag(0), value);
export const algorithmOf = (oid: string): Buffer => writeSequence(writeOid(oid));

export const utcTime = (text: string): Buffer => writeDer(TAG.utcTime, Buffer.from(text));
export const generalizedTime = (text: string): Buffer => writeDer(TAG.generalizedTime, Buffer.from(text));
export class Forger {
  readonly root: Certified;
  readonly issuer: Certified;
  readonly authority: Authority;

  constructor(
    readonly meshId: string,
    readonly nowMs: number,
    made?: { root: Certified; issuer: Certified },
  ) {
    this.root = made?.root ?? makeRoot(meshId, nowMs);
    this.issuer = made?.issuer ?? makeIssuer(this.root.certificate, this.root.privateKey, nowMs);
    const [root, issuer] = [this.root.certificate, this.issuer.certificate];
    this.authority = new Authority({ root, issuer, issuerKey: this.issuer.privateKey });
  }

  /** With the keys of an authority that is there: what its thief could make. */
  static of(directory: string): Forger {
    const read = (name: string): Certified => {
      const certificate = new X509Certificate(readFileSync(join(directory, `${name}.crt`)));
      const privateKeyPem = readFileSync(join(directory, `${name}.key`), 'utf8');
      const publicKeyDer = certificate.publicKey.export({ type: 'spki', format: 'der' });
      return { certificate, privateKeyPem, privateKey: createPrivateKey(privateKeyPem), publicKeyDer };
    };
    const root = read('ca');
    return new Forger(readMeshId(root.certificate), Date.now(), { root, issuer: read('issuer') });
  }

  /** What a peer would present: the leaf, and what is to stand above it. */
  credential({ der, key }: Forged, above: readonly X509Certificate[] = [this.issuer.certificate]): Credential {
    return {
      certificateChain: [der, ...above.map(({ raw }) => raw)].map((bytes) => toPem(bytes)).join(''),
      privateKey: key.export({ type: 'pkcs8', format: 'pem' }) as string,
      root: this.authority.rootPem,
    };
  }

  /** A good certificate of this role, but for what is changed. */
  leaf(role: Role, change: Change = () => ({}), pair: KeyPair = makeKeyPair()): Forged {
    const names = [uriName(`spiffe://${this.meshId}/${role}/${role === 'coordinator' ? 'one' : 'box'}`)];
    const usual = this.#draft(role, this.issuer, pair.publicKeyDer, names);
    const draft = { ...usual, ...change(usual, this, role) };
    return { der: encode(draft), key: draft.holder ?? pair.privateKey };
  }

  /** An authority below the root, or below `above`. */
  authorityBelow(above: Certified, change: Change = () => ({}), kind: 'issuer' | 'root' = 'issuer'): Certified {
    const pair = makeKeyPair();
    const usual = this.#draft(kind, above, pair.publicKeyDer, [uriName(`spiffe://${this.meshId}`)]);
    const der = encode({ ...usual, ...change(usual, this, 'agent') });
    return { ...pair, certificate: new X509Certificate(der) };
  }

  #draft(
    kind: CertificateKind,
    above: Certified,
    publicKey: Buffer,
    names: Parameters<typeof subjectAltName>[0],
  ): Draft {
    return {
      version: explicitVersion(integer(2)),
      serial: writeDer(TAG.integer, randomSerial()),
      algorithm: algorithmOf(ECDSA_SHA256),
      issuer: fieldsOf(above.certificate).subjectDer,
      notBefore: writeTime(this.nowMs - 60_000),
      notAfter: writeTime(this.nowMs + HOUR_MS),
      subject: nameDer(this.meshId, kind),
      publicKey,
      extensions: [...profileExtensions(kind), subjectAltName(names)],
      more: [],
      signer: above.privateKey,
      hash: 'sha256',
      finish: (der) => der,
    };
  }
}

function encode(draft: Draft): Buffer {
  const extensions = draft.extensions.map(extensionDer);
  const signed = writeSequence(
    ...(draft.version ? [draft.version] : []),
    ...[draft.serial, draft.algorithm, draft.issuer, writeSequence(draft.notBefore, draft.notAfter)],
    ...[draft.subject, draft.publicKey],
    ...(extensions.length > 0 ? [writeDer(contextTag(3), writeSequence(...extensions))] : []),
    ...draft.more,
  );
  const signature = writeBitString(sign(draft.hash, signed, draft.signer));
  return draft.finish(writeSequence(signed, draft.outerAlgorithm ?? draft.algorithm, signature));
}

/** In place of the extension of the same kind, or after the others. */
export const withExtension =
  (extension: ExtensionTemplate): Change =>
  ({ extensions }) => ({
    extensions: extensions.some(({ oid }) => oid === extension.oid)
      ? extensions.map((usual) => (usual.oid === extension.oid ? extension : usual))
      : [...extensions, extension],
  });

export const withoutExtension =
  (oid: string): Change =>
  ({ extensions }) => ({ extensions: extensions.filter((usual) => usual.oid !== oid) });

/** An extension once more, or one that is not known. */
export const withMore =
  (extension: ExtensionTemplate): Change =>
  ({ extensions }) => ({ extensions: [...extensions, extension] });
