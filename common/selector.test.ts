import { test } from 'tap';
import { parseSelector, unmetRequirement } from './selector.js';

const LABELS = new Map([
  ['os', 'linux'],
  ['zone', 'attic'],
  ['gpu', ''],
  ['rack', '7'],
]);
const unmet = (text: string) => unmetRequirement(parseSelector(text), LABELS);

test('every operator, met and unmet', async (t) => {
  for (const met of [
    '',
    ' ',
    'os=linux',
    'os = linux',
    'os!=windows',
    'missing!=x',
    'gpu',
    '!missing',
    'gpu=',
    '! missing',
  ])
    t.equal(unmet(met), undefined, met);
  for (const met of [
    'zone in (attic,cellar)',
    'zone in ( cellar , attic )',
    'zone in(attic)',
    'os=linux,gpu,zone in (a,attic),!x',
  ])
    t.equal(unmet(met), undefined, met);
  t.same(['os=windows', 'x=1', 'os!=linux', 'x', '!gpu', 'zone in (a,b)', 'x in (a)', 'os=linux,rack=8'].map(unmet), [
    'label os is linux, not windows',
    'label x is missing, not 1',
    'label os is linux',
    'label x is missing',
    'label gpu is present',
    'label zone is attic, not one of a, b',
    'label x is missing, not one of a',
    'label rack is 7, not 8',
  ]);
});

test('what does not parse is named', async (t) => {
  const cases: [string, string][] = [
    ['os=linux,', '""'],
    [',', '""'],
    ['os==linux', '"os==linux"'],
    ['-os=linux', '"-os=linux"'],
    ['os in linux', '"os in linux"'],
    ['os in (linux', '"os in (linux"'],
    ['os in (a,$(id))', '"os in (a"'],
    ['os in (a;b)', '"os in (a;b)"'],
    ['os=a"b', '"os=a"b"'],
    ['os=li\nnux', '"os=li'],
    ['!', '"!"'],
    [`${'k'.repeat(64)}=1`, `"${'k'.repeat(64)}=1"`],
    [`k=${'v'.repeat(64)}`, `"k=${'v'.repeat(64)}"`],
  ];
  for (const [text, part] of cases) {
    try {
      parseSelector(text);
      t.fail(`${text} parses`);
    } catch (error) {
      t.match(error, { code: 'BAD_SELECTOR', hint: /os=linux/ }, text);
      t.ok((error as Error).message.startsWith(part.slice(0, 20)), `${(error as Error).message} names ${part}`);
    }
  }
});

test('a long hostile selector is refused; one that makes the patterns backtrack would never end', async (t) => {
  t.throws(() => parseSelector(`a in (${'x '.repeat(20_000)}!`), { code: 'BAD_SELECTOR' });
  t.throws(() => parseSelector(`${'a '.repeat(20_000)}!`), { code: 'BAD_SELECTOR' });
});
