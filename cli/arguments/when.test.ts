import { test } from 'tap';
import { parseMoment } from './when.js';

test('a moment is so long ago, or a date', (t) => {
  const nowMs = Date.parse('2026-11-28T12:00:00Z');
  t.equal(parseMoment('2h', nowMs), Date.parse('2026-11-28T10:00:00Z'));
  t.equal(parseMoment('2026-11-27', nowMs), Date.parse('2026-11-27T00:00:00Z'));
  t.equal(parseMoment('2026-11-27T08:30Z', nowMs), Date.parse('2026-11-27T08:30:00Z'));
  for (const text of ['', 'yesterday', '5 parsecs', '2026-99-01', '3', '-1h'])
    t.throws(() => parseMoment(text, nowMs), { code: 'USAGE' }, text);
  t.end();
});
