import { sql } from 'kysely';
import { test } from 'tap';
import { SeededRandom } from '../../test/support/random.js';
import { withStore } from '../../test/support/postgres.js';
import { parseNumberArray, parseTextArray, texts } from './arrays.js';

test('arrays are read as PostgreSQL writes them', async (t) => {
  t.same(parseNumberArray('{}'), []);
  t.same(parseNumberArray('{1,-2,NULL,9007199254740991}'), [1, -2, null, 9007199254740991]);
  t.same(parseTextArray('{}'), []);
  t.same(parseTextArray(String.raw`{a,"b, c","\"\\",NULL,"NULL",""}`), ['a', 'b, c', '"\\', null, 'NULL', '']);
  const { database } = await withStore(t);
  const random = new SeededRandom(7);
  const letters = ['a', '"', '\\', ',', '{', '}', ' ', '\n', 'é', 'NULL', "'"];
  for (let round = 0; round < 50; round++) {
    const values = Array.from({ length: random.integer(0, 5) }, () =>
      Array.from({ length: random.integer(0, 6) }, () => random.pick(letters)).join(''),
    );
    const { rows } = await database.run((db) =>
      sql<{ words: string[]; sizes: number[] }>`
        select w.words, array(select length(x) from unnest(w.words) with ordinality as u(x, n) order by n) as sizes
        from (select ${texts(values, (value) => value)} as words) w`.execute(db),
    );
    t.same(rows, [{ words: values, sizes: values.map((value) => value.length) }]);
  }
});
