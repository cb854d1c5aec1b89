import { BACKDATE_MS, PROFILES } from '../../../common/identity/profile.js';
import { type Change, generalizedTime, integer, utcTime } from '../forger.js';
import { writeTime } from '../../../common/identity/der.js';
import type { Forgery } from './forgery.js';

const HOUR_MS = 3_600_000;

const validity =
  (notBefore: (nowMs: number) => Buffer, notAfter: (nowMs: number) => Buffer): Change =>
  (_, { nowMs }) => ({ notBefore: notBefore(nowMs), notAfter: notAfter(nowMs) });
const longest =
  (moreMs: number): Change =>
  (_, { nowMs }, role) => {
    const wholeMs = Math.floor(nowMs / 1000) * 1000;
    return {
      notBefore: writeTime(wholeMs),
      notAfter: writeTime(wholeMs + PROFILES[role].lifetimeMsMax + BACKDATE_MS + moreMs),
    };
  };
const from = (ms: number) => (nowMs: number) => writeTime(nowMs + ms);
export const DATES: Forgery[] = [
  {
    what: 'expired',
    change: validity(from(-2 * HOUR_MS), from(-HOUR_MS)),
    reason: /has expired.*here it is .*, 1 h 0 min later/,
    threat: 'A5',
  },
  {
    what: 'not valid yet',
    change: validity(from(HOUR_MS), from(2 * HOUR_MS)),
    reason: /not valid yet.* at least 1 h \d min behind/,
    threat: 'A5',
  },
  { what: 'dates in reverse', change: validity(from(HOUR_MS), from(-HOUR_MS)), reason: /ends before it begins/ },
  { what: 'no time between the dates', change: validity(from(0), from(0)), reason: /ends before it begins/ },
  { what: 'the longest life there is', change: longest(0), reason: undefined },
  { what: 'a second more than that', change: longest(1000), reason: /longer than the profile/ },
  {
    what: 'until 9999',
    change: validity(from(0), () => generalizedTime('99991231235959Z')),
    reason: /longer than the profile/,
  },
  {
    what: 'from 1950',
    change: validity(() => utcTime('500101000000Z'), from(HOUR_MS)),
    reason: /longer than the profile/,
  },
  {
    what: 'the long form before 2050',
    change: validity(from(0), (ms) =>
      generalizedTime(new Date(ms + HOUR_MS).toISOString().replace(/[-:T]|\.\d+/g, '')),
    ),
    reason: /form of those after 2049/,
  },
  { what: 'a time without seconds', change: validity(from(0), () => utcTime('2912312359Z')), reason: /does not parse/ },
  {
    what: 'a time with an offset',
    change: validity(from(0), () => utcTime('291231235959+0100')),
    reason: /does not parse/,
  },
  {
    what: 'a time with a fraction',
    change: validity(from(0), () => generalizedTime('20601231235959.5Z')),
    reason: /does not parse/,
  },
  { what: '30 February', change: validity(from(0), () => utcTime('290230000000Z')), reason: /does not exist/ },
  { what: 'the 24th hour', change: validity(from(0), () => utcTime('291231240000Z')), reason: /does not exist/ },
  { what: 'a number for a time', change: () => ({ notAfter: integer(1) }), reason: /a time is missing/ },
  { what: 'one time', change: () => ({ notAfter: Buffer.alloc(0) }), reason: /validity has two times/ },
];
