import { openSync } from 'node:fs';
import { test } from 'tap';
import { createLogger, openDestination } from './log.js';

test('a log that cannot be written stops nothing', { skip: process.platform !== 'linux' }, (t) => {
  const log = createLogger({ component: 'test', destination: openDestination(openSync('/dev/full', 'a')) });
  t.doesNotThrow(() => {
    for (let line = 0; line < 20_000; line++) log.info({ event: 'line.written', line });
  });
  t.end();
});
