/**
 * The mesh's key for secrets, and what it does to a value: AES-256-GCM with a random nonce. The context (owner, name and
 * revision) is authenticated with it: a row that is copied over another one does not open.
 *
 * Random nonces of 96 bits are safe for 2^32 values under one key (NIST SP 800-38D, 8.3); a mesh sets a few a day.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { MeshError } from '../../common/errors.js';
import type { SealedSecret } from '../ports.js';

const ALGORITHM = 'aes-256-gcm';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

type Context = Pick<SealedSecret, 'owner' | 'name' | 'revision'>;

export class SecretKey {
  /** Tells keys apart and says nothing about them. */
  readonly id: string;
  readonly #bytes: Buffer;

  /** @throws MeshError DATA_DIR when these are no key */
  constructor(bytes: Uint8Array) {
    if (bytes.length !== KEY_BYTES)
      throw new MeshError('DATA_DIR', `the key for secrets has ${bytes.length} bytes, not ${KEY_BYTES}`, {
        hint: 'restore ca/secrets.key from a backup, or copy it from another coordinator',
      });
    this.#bytes = Buffer.from(bytes);
    this.id = createHash('sha256').update('planetary-mesh secrets').update(bytes).digest('hex').slice(0, 16);
  }

  static make(): SecretKey {
    return new SecretKey(randomBytes(KEY_BYTES));
  }

  /** For the key's file and for other coordinators; nothing else may see it. */
  export(): Buffer {
    return Buffer.from(this.#bytes);
  }

  /** Nonce, ciphertext, tag. */
  seal(value: Uint8Array, context: Context): Buffer {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(ALGORITHM, this.#bytes, nonce, { authTagLength: TAG_BYTES });
    cipher.setAAD(this.#bind(context));
    return Buffer.concat([nonce, cipher.update(value), cipher.final(), cipher.getAuthTag()]);
  }

  /** @throws MeshError CONFLICT when it is sealed with another key or was changed */
  open(secret: SealedSecret): Buffer {
    const { name, keyId, sealed } = secret;
    if (keyId !== this.id)
      throw new MeshError('CONFLICT', `the secret ${name} is encrypted with another key than this coordinator has`, {
        hint: 'set it anew: mesh secret set',
      });
    try {
      const decipher = createDecipheriv(ALGORITHM, this.#bytes, sealed.subarray(0, NONCE_BYTES), {
        authTagLength: TAG_BYTES,
      });
      decipher.setAAD(this.#bind(secret));
      decipher.setAuthTag(sealed.subarray(-TAG_BYTES));
      return Buffer.concat([decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES)), decipher.final()]);
    } catch {
      throw new MeshError('CONFLICT', `the secret ${name} was changed in the database: it does not open`, {
        hint: 'find out who writes to the database, then set it anew: mesh secret set',
      });
    }
  }

  #bind({ owner, name, revision }: Context): Buffer {
    return Buffer.from(JSON.stringify(['mesh-secret', owner, name, revision, this.id]));
  }
}
