/**
 * What a source says, without a compiler: its imports, and its code with comments and strings blanked so that rules
 * about calls do not fire on prose. One pass over the characters; every blanked character keeps its place, so offsets
 * and line numbers stay those of the file. It knows strings, templates (whose `${}` is code), comments and regular
 * expressions; a `/` starts an expression where no value can stand before it. It errs when a file does not parse at
 * all, which the compiler reports anyway.
 */

export interface Import {
  /** As written: './x.js', 'node:fs', 'tap'. */
  specifier: string;
  line: number;
  /** Only types come in, so nothing is loaded when the program runs. */
  typeOnly: boolean;
}

export interface Source {
  /** Relative to the tree that is checked, with forward slashes. */
  path: string;
  text: string;
  /** Comments, strings and regular expressions blanked. */
  code: string;
  /** Only what stands in comments. */
  comments: string;
  lines: number;
  imports: Import[];
}

type Kind = 'code' | 'comment' | 'string' | 'regex';

const BLANK = /[^\n]/g;
const REGEX_MAY_FOLLOW =
  /(?:^|[(,=:[!&|?{};+*%<>~^-]|\b(?:return|typeof|case|in|of|delete|void|throw|await|yield))\s*$/;

/** End of a quoted string or regular expression that starts at `start`; stops at the line's end when it is not closed. */
function endOfQuoted(text: string, start: number, quote: string): number {
  let inClass = false;
  for (let at = start + 1; at < text.length; at++) {
    const character = text[at];
    if (character === '\\') at++;
    else if (character === '\n') return at;
    else if (quote === '/' && character === '[') inClass = true;
    else if (quote === '/' && character === ']') inClass = false;
    else if (character === quote && !inClass) return at + 1;
  }
  return text.length;
}

/** The length of a template's text up to and with its closing quote, or with the `${` that starts code. */
function endOfTemplateText(text: string, start: number): number {
  for (let at = start; at < text.length; at++) {
    if (text[at] === '\\') at++;
    else if (text[at] === '`') return at + 1;
    else if (text[at] === '$' && text[at + 1] === '{') return at + 2;
  }
  return text.length;
}

const lineEnd = (text: string, start: number): number => {
  const found = text.indexOf('\n', start);
  return found < 0 ? text.length : found;
};

/** The piece that starts at `at` when it is not plain code: its kind and its end. */
function specialAt(text: string, at: number): { kind: Kind; end: number } | undefined {
  const character = text[at];
  const pair = text.slice(at, at + 2);
  if (pair === '//' || (at === 0 && pair === '#!')) return { kind: 'comment', end: lineEnd(text, at) };
  if (pair === '/*') {
    const close = text.indexOf('*/', at + 2);
    return { kind: 'comment', end: close < 0 ? text.length : close + 2 };
  }
  if (character === "'" || character === '"') return { kind: 'string', end: endOfQuoted(text, at, character) };
  if (character === '`') return { kind: 'string', end: endOfTemplateText(text, at + 1) };
  if (character === '/' && REGEX_MAY_FOLLOW.test(text.slice(Math.max(0, at - 40), at)))
    return { kind: 'regex', end: endOfQuoted(text, at, '/') };
  return undefined;
}

function split(text: string): { kind: Kind; from: number; to: number }[] {
  const pieces: { kind: Kind; from: number; to: number }[] = [];
  /** For every template whose `${` is open: how many braces were opened inside it. */
  const templates: number[] = [];
  let codeFrom = 0;
  const push = (kind: Kind, from: number, to: number): void => {
    if (codeFrom < from) pieces.push({ kind: 'code', from: codeFrom, to: from });
    pieces.push({ kind, from, to });
    codeFrom = to;
    if (kind === 'string' && text.slice(to - 2, to) === '${') templates.push(0);
  };
  for (let at = 0; at < text.length; ) {
    const depth = templates.at(-1);
    if (depth !== undefined && text[at] === '}' && depth === 0) {
      templates.pop();
      push('string', at, endOfTemplateText(text, at + 1));
      at = codeFrom;
      continue;
    }
    if (depth !== undefined && text[at] === '{') templates[templates.length - 1] = depth + 1;
    if (depth !== undefined && text[at] === '}') templates[templates.length - 1] = depth - 1;
    const special = specialAt(text, at);
    if (special) push(special.kind, at, special.end);
    at = special ? special.end : at + 1;
  }
  if (codeFrom < text.length) pieces.push({ kind: 'code', from: codeFrom, to: text.length });
  return pieces;
}

export const lineAt = (text: string, offset: number): number => text.slice(0, offset).split('\n').length;

// `import x from`, `export … from` (the clause may span lines), the bare `import 'x'`, and `import('x')`.
const STATEMENT =
  /(?<![\w$.])(?:import|export)\s+(type\b(?!\s*(?:from\b|,)))?((?:(?!\b(?:import|export)\b)[^'"`;()=])*?)from\s*['"]/g;
const BARE = /(?<![\w$.])import\s*['"]/g;
const CALL = /(?<![\w$.])(?:import|require|import\.meta\.resolve)\s*\(\s*['"]/g;

function findImports(text: string, withoutComments: string): Import[] {
  const imports: Import[] = [];
  const add = (from: number, quoteAt: number, typeOnly: boolean): void => {
    const end = endOfQuoted(text, quoteAt, text[quoteAt] ?? "'");
    imports.push({ specifier: text.slice(quoteAt + 1, end - 1), line: lineAt(text, from), typeOnly });
  };
  for (const match of withoutComments.matchAll(STATEMENT)) {
    const names = /^\s*\{([^}]*)\}\s*$/
      .exec(match[2] ?? '')?.[1]
      ?.split(',')
      .filter((name) => name.trim() !== '');
    const allTypes = names !== undefined && names.length > 0 && names.every((name) => /^\s*type\s/.test(name));
    add(match.index, match.index + match[0].length - 1, match[1] !== undefined || allTypes);
  }
  for (const match of withoutComments.matchAll(BARE)) add(match.index, match.index + match[0].length - 1, false);
  for (const match of withoutComments.matchAll(CALL)) {
    // `typeof import('x')` and `import('x').Type` in a type load nothing, but they are arrows all the same.
    add(match.index, match.index + match[0].length - 1, false);
  }
  return imports.sort((a, b) => a.line - b.line);
}

/** Reads the file's text into what the rules look at. `path` is relative to the checked tree. */
export function readSource(path: string, text: string): Source {
  const pieces = split(text);
  const keep = (...kinds: Kind[]): string =>
    pieces
      .map(({ kind, from, to }) => {
        const piece = text.slice(from, to);
        return kinds.includes(kind) ? piece : piece.replace(BLANK, ' ');
      })
      .join('');
  const code = keep('code');
  // An import inside a string is prose: look at code plus the quotes themselves.
  const imports = findImports(text, keepQuotes(text, pieces));
  return { path, text, code, comments: keep('comment'), lines: text.split('\n').length - 1, imports };
}

/** Code, with each string reduced to its first quote, so that what looks like an import inside a string is not one. */
function keepQuotes(text: string, pieces: { kind: Kind; from: number; to: number }[]): string {
  return pieces
    .map(({ kind, from, to }) => {
      const piece = text.slice(from, to);
      if (kind === 'code') return piece;
      const blank = piece.replace(BLANK, ' ');
      return kind === 'string' && text[from] !== '}' ? `${text[from]}${blank.slice(1)}` : blank;
    })
    .join('');
}
