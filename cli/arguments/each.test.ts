import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { type Test, test } from 'tap';
import { type EachLines, openEach } from './each.js';

const noStdin = () => {
  throw new Error('standard input was read');
};

const all = async (each: EachLines): Promise<string[]> => {
  const lines: string[] = [];
  for await (const line of each.open()) lines.push(line);
  return lines;
};

function folder(t: Test, files: Record<string, string>): string {
  const root = t.testdir();
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(root, path, '..'), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  return root;
}

test('a file gives its lines, twice the same, without blank ones', async (t) => {
  const cwd = folder(t, { 'list.txt': 'one\r\n\n  two \n{"text":"a\u2028b"}\nlast' });
  const each = (await openEach('list.txt', cwd, noStdin)) as EachLines;
  t.equal(each.count, 4);
  const expected = ['one', '  two ', '{"text":"a\u2028b"}', 'last'];
  t.same(await all(each), expected);
  t.same(await all(each), expected);
});

test('characters and line ends that are split between chunks stay whole', async (t) => {
  const line = 'ä'.repeat(50_000);
  const cwd = folder(t, { list: `${line}\r\n${line}\n` });
  t.same(await all((await openEach('list', cwd, noStdin)) as EachLines), [line, line]);
});

test('standard input is spooled, and the spool is removed', async (t) => {
  const spools = () => readdirSync(tmpdir()).filter((name) => name.startsWith('mesh-each-'));
  const before = new Set(spools());
  const each = (await openEach('-', '/', () => Readable.from(['a\nb', '\nc\n']))) as EachLines;
  const added = spools().filter((name) => !before.has(name));
  t.equal(each.count, 3);
  t.same(await all(each), ['a', 'b', 'c']);
  t.ok(added.length >= 1);
  each.close();
  t.ok(added.some((name) => !existsSync(join(tmpdir(), name))));
});

test('a pipe is read once, as bash gives one for <(…)', async (t) => {
  const cwd = t.testdir();
  execFileSync('mkfifo', [join(cwd, 'pipe')]);
  const written = writeFile(join(cwd, 'pipe'), 'a\nb\n');
  const each = (await openEach('pipe', cwd, noStdin)) as EachLines;
  await written;
  t.same(await all(each), ['a', 'b']);
  t.same(await all(each), ['a', 'b']);
  each.close();
});

test('a glob gives files in natural order, with their paths', async (t) => {
  const cwd = folder(t, { 'frames/10.png': '', 'frames/9.png': '', 'frames/x.txt': '', 'frames/deep/1.png': '' });
  const each = await openEach('frames/*.png', cwd, noStdin);
  t.same(each.kind === 'files' && each.files, [
    { source: join(cwd, 'frames/9.png'), path: 'frames/9.png' },
    { source: join(cwd, 'frames/10.png'), path: 'frames/10.png' },
  ]);
});

test('a folder gives everything below it', async (t) => {
  const cwd = folder(t, { 'in/a': '', 'in/b/c': '' });
  const each = await openEach('in', cwd, noStdin);
  t.same(each.kind === 'files' && each.files.map(({ path }) => path), ['in/a', 'in/b/c']);
});

test('files outside are placed relative to the fixed part of the glob', async (t) => {
  const root = folder(t, { 'data/x/1.png': '', 'data/y/2.png': '', 'cwd/z': '' });
  const expected = ['x/1.png', 'y/2.png'];
  for (const pattern of ['../data/*/*.png', join(root, 'data/*/*.png')]) {
    const each = await openEach(pattern, join(root, 'cwd'), noStdin);
    t.same(each.kind === 'files' && each.files.map(({ path }) => path), expected, pattern);
  }
});

test('nothing to do is an error that says why', async (t) => {
  const cwd = folder(t, { empty: '\n \n' });
  await t.rejects(openEach('empty', cwd, noStdin), { code: 'USAGE', message: '--each: empty has no lines' });
  await t.rejects(openEach('gone.txt', cwd, noStdin), { code: 'USAGE', message: /nothing matches "gone.txt"/ });
  await t.rejects(openEach('*.png', cwd, noStdin), { code: 'USAGE', message: /nothing matches/ });
  const nothing = () => Readable.from([]);
  await t.rejects(openEach('-', cwd, nothing), { code: 'USAGE', message: /standard input has no lines/ });
});
