import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'tap';
import { globSync } from 'tinyglobby';
import { packageRoot } from '../../common/package.js';

const PAGES = globSync(
  ['*.md', '{adr,agent,bench,ca,cli,coordinator,deploy,docs,examples,link,proto,sdk,test}/**/*.md'],
  {
    cwd: packageRoot,
  },
).sort();

const read = (page: string): string => readFileSync(join(packageRoot, page), 'utf8').replace(/^```[\s\S]*?^```/gm, '');

/** As GitHub makes the anchor of a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');

const anchorsOf = (page: string): string[] =>
  [...read(page).matchAll(/^#+ (.+)$/gm)].map(([, text]) => anchorOf(text!));

/** Targets of the links of a page that lead to something of ours. */
const linksOf = (page: string): string[] =>
  [...read(page).matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, target]) => target!)
    .filter((target) => !/^[a-z]+:/.test(target));

test('every relative link in the documentation leads somewhere', async (t) => {
  for (const page of PAGES) {
    for (const link of linksOf(page)) {
      const [path = '', anchor] = link.split('#');
      const target = path === '' ? page : join(dirname(page), path);
      t.ok(existsSync(join(packageRoot, target)), `${page}: ${link}`);
      if (anchor !== undefined && target.endsWith('.md') && existsSync(join(packageRoot, target)))
        t.ok(anchorsOf(target).includes(anchor), `${page}: ${link} names a heading`);
    }
  }
});

test('the documentation is found', async (t) => {
  for (const page of ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/architecture.md'])
    t.ok(PAGES.includes(page), page);
});
