import { test } from 'tap';
import { parseJob, parseTarget, parseTask } from './target.js';

test('a job, a task and an attempt', async (t) => {
  t.same(parseTarget('01abc'), { job: '01abc', index: undefined, attempt: undefined });
  t.same(parseTarget('01abc.0'), { job: '01abc', index: 0, attempt: undefined });
  t.same(parseTarget('01abc.17#2'), { job: '01abc', index: 17, attempt: 2 });
});

test('anything else is refused', async (t) => {
  for (const text of ['', '.1', 'a.', 'a.b', 'a#1', 'a.1#0', 'a.1#', 'a.-1', 'a.4294967296', "a'; drop table", '../x'])
    t.throws(() => parseTarget(text), { code: 'USAGE' }, JSON.stringify(text));
  t.throws(() => parseJob('a.1'), { code: 'USAGE', hint: 'write a' });
  t.throws(() => parseTask('a.1#2'), { code: 'USAGE', hint: 'write a.1' });
});
