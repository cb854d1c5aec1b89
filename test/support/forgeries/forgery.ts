import { EXTENSION_OIDS } from '../../../common/identity/profile.js';
import type { Role } from '../../../common/identity/identity.js';
import { type Change, withExtension } from '../forger.js';

export interface Forgery {
  what: string;
  change: Change;
  /** What the check says; undefined where the certificate is fine. */
  reason: RegExp | undefined;
  /** Made for this role alone. */
  only?: Role;
  /** The row of the table of attacks, where it is one of them. */
  threat?: string;
}

export const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

/** An extension that is known, with these bytes in it. */
export const inside = (name: keyof typeof EXTENSION_OIDS, value: Buffer | string, critical = true): Change =>
  withExtension({ oid: EXTENSION_OIDS[name], critical, value: typeof value === 'string' ? hex(value) : value });
