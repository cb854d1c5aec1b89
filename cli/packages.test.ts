import { test } from 'tap';
import { audit } from '../examples/license-audit/audit.mjs';
import { installedPackages } from './packages.js';

test('every package is found, nested and scoped ones too, with what belongs to its license', async (t) => {
  const root = t.testdir({
    node_modules: {
      '.bin': { 'package.json': '{}' },
      a: {
        'package.json': '{}',
        LICENSE: '',
        'license.js': '',
        'LICENSE.md': '',
        'index.js': '',
        node_modules: { b: { 'package.json': '{}', COPYING: '' } },
      },
      '@s': { c: { 'package.json': '{}', 'LICENCE-MIT': '' } },
      empty: {},
      linked: t.fixture('symlink', 'a'),
    },
  });
  const found = installedPackages(root);
  t.same(
    found.map(({ name, path, files }) => [name, path, files.map((file) => file.path).sort()]),
    [
      ['@s/c', 'node_modules/@s/c', ['LICENCE-MIT', 'package.json']],
      ['a', 'node_modules/a', ['LICENSE', 'LICENSE.md', 'package.json']],
      ['b', 'node_modules/a/node_modules/b', ['COPYING', 'package.json']],
    ],
  );
});

test('the audit answers from the manifest, or from the text of the license', async (t) => {
  const mit = 'Permission is hereby granted, free of charge, to any person obtaining a copy of this software';
  const cases: [Record<string, string>, string][] = [
    [{ 'package.json': '{"version":"1.0.0","license":"ISC"}', LICENSE: mit }, 'ISC'],
    [{ 'package.json': '{"license":{"type":"BSD-3-Clause"}}' }, 'BSD-3-Clause'],
    [{ 'package.json': '{"licenses":[{"type":"MIT"},{"type":"Apache-2.0"}]}' }, '(MIT OR Apache-2.0)'],
    [{ 'package.json': '{"license":"SEE LICENSE IN LICENSE"}', LICENSE: mit }, 'MIT'],
    [{ 'package.json': '{}', 'LICENSE.txt': 'Apache License\n   Version 2.0, January 2004' }, 'Apache-2.0'],
    [{ 'package.json': '{}' }, 'unknown'],
  ];
  for (const [index, [files, license]] of cases.entries()) {
    const directory = t.testdir({ [index]: files });
    const result = await audit({ package: 'p', path: 'x' }, { directory: `${directory}/${index}` });
    t.match(result, { package: 'p', license });
  }
});
