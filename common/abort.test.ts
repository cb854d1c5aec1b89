import { test } from 'tap';
import { unlessAborted } from './abort.js';

test('the first of both counts; an abort comes at once, also one that was before', async (t) => {
  const { signal } = new AbortController();
  t.equal(await unlessAborted(Promise.resolve(7), signal, 'stopped'), 7);
  await t.rejects(unlessAborted(Promise.reject(new Error('broken')), signal, 'stopped'), { message: 'broken' });
  const over = new AbortController();
  const waiting = unlessAborted(new Promise(() => undefined), over.signal, 'stopped');
  over.abort();
  await t.rejects(waiting, { code: 'INTERRUPTED', message: 'stopped' });
  await t.rejects(unlessAborted(Promise.reject(new Error('later')), over.signal, 'stopped'), { message: 'later' });
  await t.rejects(unlessAborted(new Promise(() => undefined), over.signal, 'stopped'), { code: 'INTERRUPTED' });
});
