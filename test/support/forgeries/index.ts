/**
 * Every way we know in which a certificate can be wrong without TLS minding, and those on the border that are right: one
 * row each, with what the profile check must say. The rows are made for an agent as a client and a coordinator as a
 * server alike, unless they say otherwise. They are judged in ca/profile.test.ts by the check alone, and in
 * test/attack/certificates.test.ts by a real door and by what connects to one.
 */
import { DATES } from './dates.js';
import type { Forgery } from './forgery.js';
import { FORMS } from './forms.js';
import { KEYS } from './keys.js';
import { NAMES } from './names.js';
import { USES } from './uses.js';

export type { Forgery } from './forgery.js';

export const FORGERIES: readonly Forgery[] = [...NAMES, ...USES, ...KEYS, ...DATES, ...FORMS];
