import { test } from 'tap';
import { parseSecrets } from './secrets.js';

test('a secret in a variable of its name or another, or as a file', (t) => {
  t.same(parseSecrets(['TOKEN', 'TOKEN=API_TOKEN'], ['KEY', 'KEY=SSH_KEY']), [
    { name: 'TOKEN', variable: 'TOKEN', file: false, owner: '' },
    { name: 'TOKEN', variable: 'API_TOKEN', file: false, owner: '' },
    { name: 'KEY', variable: 'KEY_FILE', file: true, owner: '' },
    { name: 'KEY', variable: 'SSH_KEY', file: true, owner: '' },
  ]);
  t.end();
});

test('a value that was typed where a name belongs is not repeated', (t) => {
  for (const [variables, files, flag] of [
    [['hunter2-hunter2'], [], '--secret'],
    [['TOKEN=hunter2-hunter2'], [], '--secret'],
    [[], ['/home/hunter2'], '--secret-file'],
    [[], ['KEY='], '--secret-file'],
  ] as const) {
    const error = t.throws(() => parseSecrets(variables, files), { code: 'USAGE', message: new RegExp(`^${flag}: `) });
    t.notMatch(`${(error as Error).message} ${(error as { hint?: string }).hint}`, /hunter2/);
  }
  t.end();
});
