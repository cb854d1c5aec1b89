import { test } from 'tap';
import { parseEnvironment } from './environment.js';

test('values are given or taken from here; the last one wins', async (t) => {
  const parsed = parseEnvironment(['A=1', 'B', 'C=x=y', 'D=', 'A=2'], { B: 'from here' });
  t.same(parsed, { A: '2', B: 'from here', C: 'x=y', D: '' });
});

test('a name that would change a prototype is a plain variable', async (t) => {
  const parsed = parseEnvironment(['__proto__=1'], {});
  t.same(Object.entries(parsed), [['__proto__', '1']]);
});

test('wrong, reserved and unset names are refused', async (t) => {
  t.throws(() => parseEnvironment(['1A=x'], {}), { code: 'USAGE' });
  t.throws(() => parseEnvironment(['=x'], {}), { code: 'USAGE' });
  t.throws(() => parseEnvironment(['A B=x'], {}), { code: 'USAGE' });
  t.throws(() => parseEnvironment(['MESH_INDEX=1'], {}), { code: 'USAGE', message: /reserved/ });
  t.throws(() => parseEnvironment(['GONE'], {}), { code: 'USAGE', message: /GONE is not set/ });
  t.throws(() => parseEnvironment(['A=x\0y'], {}), { code: 'USAGE', message: /NUL/ });
});
