/**
 * One task per package: which license does it have? The task gets the package's own files staged into its directory and
 * answers from `package.json`, or from the text of its license file where that says nothing.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** The most telling sentence of each license, and what rules a look-alike out. The first match wins. */
const TEXTS = [
  ['Apache-2.0', /apache license,?\s+version 2\.0/i],
  ['MPL-2.0', /mozilla public license,?\s+(?:version|v\.)\s*2\.0/i],
  ['AGPL-3.0', /gnu affero general public license/i],
  ['LGPL-3.0', /gnu lesser general public license[\s\S]{0,80}version 3/i],
  ['LGPL-2.1', /gnu lesser general public license[\s\S]{0,80}version 2\.1/i],
  ['GPL-3.0', /gnu general public license[\s\S]{0,80}version 3/i],
  ['GPL-2.0', /gnu general public license[\s\S]{0,80}version 2/i],
  ['CC0-1.0', /cc0 1\.0 universal/i],
  ['CC-BY-4.0', /creative commons attribution 4\.0/i],
  ['Unlicense', /this is free and unencumbered software released into the public domain/i],
  ['BlueOak-1.0.0', /blue oak model license/i],
  ['PostgreSQL', /postgresql license/i],
  ['MIT', /permission is hereby granted, free of charge, to any person obtaining a copy/i],
  ['BSD-3-Clause', /redistribution and use in source and binary forms[\s\S]*neither the name/i],
  ['BSD-2-Clause', /redistribution and use in source and binary forms/i],
  ['ISC', /permission to use, copy, modify, and(?:\/or)? distribute this software[\s\S]*above\s+copyright notice/i],
  ['0BSD', /permission to use, copy, modify, and(?:\/or)? distribute this software/i],
];

/** What `package.json` says, in the three ways it has been written over the years. */
function declared({ license, licenses }) {
  const entries = [license, ...(Array.isArray(licenses) ? licenses : [licenses])];
  const names = entries.map((entry) => (typeof entry === 'object' ? entry?.type : entry));
  const known = names.filter(
    (name) => typeof name === 'string' && name !== '' && !/^(see license|unlicensed)/i.test(name),
  );
  return known.length > 1 ? `(${known.join(' OR ')})` : known[0];
}

async function recognised(directory, files) {
  for (const file of files) {
    const text = await readFile(join(directory, file), 'utf8');
    const match = TEXTS.find(([, pattern]) => pattern.test(text));
    if (match) return match[0];
  }
  return undefined;
}

/**
 * @param {{ package: string, path: string }} value which package this is
 * @param {{ directory: string }} context where its files are
 */
export async function audit(value, { directory }) {
  const manifest = JSON.parse(await readFile(join(directory, 'package.json'), 'utf8'));
  const files = (await readdir(directory)).filter((file) => /^(licen[cs]e|copying)/i.test(file)).sort();
  const fromManifest = declared(manifest);
  const license = fromManifest ?? (await recognised(directory, files)) ?? 'unknown';
  return {
    package: value.package,
    version: typeof manifest.version === 'string' ? manifest.version : null,
    license,
    source: fromManifest ? 'package.json' : license === 'unknown' ? null : 'license text',
    files: files.length,
  };
}
