import { test } from 'tap';
import { type Logger, silentLogger } from '../../common/log.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { Unsaved } from './unsaved.js';

interface Item {
  name: string;
  unsure?: true;
}

function setup() {
  const lines: { event: string; count: number; forMs?: number }[] = [];
  const note = (fields: (typeof lines)[number]) => void lines.push(fields);
  const clock = new ManualClock();
  const again: string[][] = [];
  const log = { ...silentLogger, error: note, info: note } as unknown as Logger;
  const kept: Item[][] = [];
  const unsaved = new Unsaved<Item>({
    ...{ kind: 'results', clock, log },
    again: (items) => {
      kept.push(items);
      again.push(items.map(({ name }) => name));
    },
  });
  return { lines, clock, again, kept, unsaved };
}

const batch = (...names: string[]): Item[] => names.map((name) => ({ name }));
const down = new Error('the database is away');

test('one outage is two lines, and what failed is tried again together', (t) => {
  const { lines, clock, again, kept, unsaved } = setup();
  unsaved.failed(down, batch('a', 'b'));
  clock.advance(200);
  unsaved.failed(down, batch('c'));
  clock.advance(299);
  t.same(again, []);
  clock.advance(1);
  t.same(again, [['a', 'b', 'c']], 'on one timer');
  unsaved.failed(down, kept[0] as Item[]);
  unsaved.failed(down, batch('d'));
  clock.advance(500);
  t.same(again.at(-1), ['a', 'b', 'c', 'd']);
  t.match(lines, [{ event: 'results.unsaved', count: 2 }]);
  t.equal(lines.length, 1);

  unsaved.saved(batch('e'));
  t.equal(lines.length, 1, 'what was never owed ends no outage');
  const owed = kept[1] as Item[];
  t.ok(owed.every((item) => item.unsure));
  unsaved.saved(owed.slice(0, 2));
  t.equal(lines.length, 1);
  unsaved.saved(owed.slice(2));
  t.match(lines[1], { event: 'results.saved', count: 4, forMs: 1000 });
  clock.advance(5000);
  t.equal(again.length, 2, 'nothing is left to try');

  unsaved.failed(down, batch('f'));
  t.equal(lines.length, 3, 'the next outage is told of anew');
  t.end();
});

test('after the stop nothing is tried again', (t) => {
  const { clock, again, unsaved } = setup();
  unsaved.failed(down, batch('a'));
  unsaved.stop();
  clock.advance(1000);
  unsaved.failed(down, batch('b'));
  clock.advance(1000);
  t.same(again, []);
  t.end();
});
