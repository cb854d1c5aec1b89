import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { test } from 'tap';
import { ERRORS } from '../../common/errors.js';
import { packageRoot } from '../../common/package.js';

const page = readFileSync(join(packageRoot, 'docs', 'errors.md'), 'utf8');

test('docs/errors.md is the registry: no code missing, none too many, none different', async (t) => {
  const documented = page.split('\n').filter((line) => line.startsWith('| `'));
  const registered = Object.entries(ERRORS).map(
    ([code, { meaning, exit, grpc, hint }]) => `| \`${code}\` | ${meaning} | ${exit} | ${status[grpc]} | ${hint} |`,
  );
  t.strictSame(documented, registered);
});

test('every exit code of the registry is explained', async (t) => {
  for (const exit of new Set(Object.values(ERRORS).map((entry) => entry.exit)))
    t.match(page, new RegExp(`^- ${exit}: `, 'm'), `exit code ${exit}`);
});
