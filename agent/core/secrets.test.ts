import { test } from 'tap';
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';
import { maskedJson, maskedObserver } from './masked-launch.js';
import { JobSecrets } from './secrets.js';
import type { AttemptEnd, LaunchObserver } from './types.js';

const use = (name: string, file = false): SecretUse => ({
  name,
  variable: file ? `${name}_FILE` : name,
  file,
  owner: '',
});
const holding = (...values: (string | Buffer)[]): JobSecrets =>
  new JobSecrets(
    values.map((_, i) => use(`S${i}`)),
    values.map((value) => Buffer.from(value)),
  );

test('variables and files, as the job asks for them', (t) => {
  const secrets = new JobSecrets([use('A'), use('B', true)], [Buffer.from('one'), Buffer.from('two')]);
  t.same(secrets.variables('/dev/shm/x'), { A: 'one', B_FILE: '/dev/shm/x/B', MESH_SECRETS: '/dev/shm/x' });
  t.same([...secrets.files], [['B', Buffer.from('two')]]);
  t.same(holding('v').variables(undefined), { S0: 'v' });
  t.end();
});

test('a value is found as it is, trimmed, line by line, in JSON, in URLs and in base64 wherever that begins', (t) => {
  const secret = 'pa"ss wörd/+1234\n';
  const { mask } = holding(secret);
  const trimmed = secret.trim();
  const base64 = (text: string) => Buffer.from(text).toString('base64');
  for (const shown of [secret, trimmed, JSON.stringify(trimmed), encodeURIComponent(trimmed)])
    t.notMatch(mask.text(`x${shown}y`), /rd(?:%2F|\/)/, shown);
  for (const before of ['', 'u', 'us', 'user:'])
    t.match(mask.text(base64(`${before}${trimmed} and more`)), /^.{0,9}\*\*\*.{0,18}$/s, before);
  const lines = holding('-----BEGIN KEY-----\nAAAABBBBCCCC\r\n  DDDDEEEEFFFF\nshort\n-----END KEY-----\n').mask;
  t.equal(lines.text('it says AAAABBBBCCCC and DDDDEEEEFFFF, short'), 'it says *** and ***, short');
  t.equal(holding('abc').mask.text('abc'), 'abc', 'too short to be told from words');
  t.equal(holding(Buffer.from([0xff, 0, 0xfe, 1])).mask.text('none'), 'none');
  t.end();
});

test('what a function returns stays JSON', (t) => {
  const { mask } = holding('hunter2-hunter2', '123456');
  const masked = (value: unknown) => JSON.parse(maskedJson(JSON.stringify(value), mask)) as unknown;
  t.same(masked({ a: ['x hunter2-hunter2 y', 1234567, 12], 'hunter2-hunter2': null }), {
    a: ['x *** y', '***7', 12],
    '***': null,
  });
  t.same(masked(true), true);
  t.equal(maskedJson('['.repeat(100_000) + ']'.repeat(100_000), mask), '"***"');
  t.end();
});

test('of a launch nothing is heard that is not masked, whatever is cut where', (t) => {
  const seen: Record<string, string> = {};
  const ends: AttemptEnd[] = [];
  const observer: LaunchObserver = {
    started: () => undefined,
    output: (position) => ({
      write: (stream, data) => {
        const key = `${position}/${stream}`;
        seen[key] = (seen[key] ?? '') + Buffer.from(data).toString();
        return true;
      },
      whenDrained: (resume) => resume(),
    }),
    ended: (_, end) => void ends.push(end),
    succeeded: () => t.fail('of what is masked each end is told by itself'),
    returned: () => undefined,
  };
  const masked = maskedObserver(observer, holding('hunter2-hunter2').mask);
  const [first, second] = [masked.output(0), masked.output(1)];
  for (const character of 'my hunter2-hunter2!') first.write(1, Buffer.from(character));
  first.write(2, Buffer.from('hunter2-'));
  second.write(1, Buffer.from('hunter2'));
  const blank = { outcome: 'failed' as const, exitCode: 1, signal: undefined, runUs: 1, peakMemoryBytes: undefined };
  masked.ended(0, { ...blank, error: `Error: hunter2-hunter2\n  at cut off hunter2-hun`, resultJson: undefined });
  masked.ended(1, { ...blank, error: undefined, resultJson: '"hunter2-hunter2"' });
  t.same(seen, { '0/1': 'my ***!', '0/2': '***', '1/1': '***' });
  t.equal(ends[0]?.error, 'Error: ***\n  at cut off ***');
  t.equal(ends[1]?.resultJson, '"***"');
  masked.succeeded([2, 3], ['{"token":"hunter2-hunter2"}', '7'], [11, 12]);
  t.match(ends.slice(2), [
    { outcome: 'succeeded', resultJson: '{"token":"***"}', runUs: 11 },
    { outcome: 'succeeded', resultJson: '7', runUs: 12 },
  ]);
  t.end();
});
