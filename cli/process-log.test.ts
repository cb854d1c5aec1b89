import { join } from 'node:path';
import { test } from 'tap';
import { lastErrorLines } from './process-log.js';

test('the last errors of a log, oldest first', async (t) => {
  const lines = [
    '{"level":"info","event":"a.b","message":"fine"}',
    '{"level":"error","event":"x.failed","message":"first","err":{"message":"cause"}}',
    '{"level":"error","event":"only.event"}',
    '    at somewhere (file.js:1:1)',
    'Node.js v20.0.0',
    '{"level":"fatal","message":"\\u001b[31mlast"}',
    'mesh-agent: the token is spent; make a new one',
    '{"level":"info","message":"stopped"}',
  ];
  const path = join(t.testdir({ log: lines.join('\n') }), 'log');
  t.same(lastErrorLines(path), ['only.event', 'last', 'mesh-agent: the token is spent; make a new one']);
  t.same(lastErrorLines(path, 4).at(0), 'first: cause');
});

test('only the end of a long log is read, and none is no error', async (t) => {
  const path = join(t.testdir({ log: `too old\n${'{"level":"info"}\n'.repeat(10_000)}new\n` }), 'log');
  t.same(lastErrorLines(path), ['new']);
  t.same(lastErrorLines(`${path}.gone`), []);
});
