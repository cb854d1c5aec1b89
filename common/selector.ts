import { MeshError } from './errors.js';

/** One requirement of a label selector. */
export type Requirement =
  | { key: string; operator: 'equals' | 'differs'; value: string }
  | { key: string; operator: 'in'; values: string[] }
  | { key: string; operator: 'exists' | 'absent' };

export type Selector = Requirement[];

const KEY = '[A-Za-z0-9][A-Za-z0-9._/-]{0,62}';
const VALUE = '[A-Za-z0-9._/:+ -]{0,63}';
const PATTERNS: [RegExp, (m: string[]) => Requirement][] = [
  [
    new RegExp(`^(${KEY})\\s+in\\s*\\(((?:${VALUE},)*${VALUE})\\)$`),
    ([, key, list]) => ({ key: key!, operator: 'in', values: values(list!) }),
  ],
  [
    new RegExp(`^(${KEY})\\s*!=\\s*(${VALUE})$`),
    ([, key, value]) => ({ key: key!, operator: 'differs', value: value! }),
  ],
  [new RegExp(`^(${KEY})\\s*=\\s*(${VALUE})$`), ([, key, value]) => ({ key: key!, operator: 'equals', value: value! })],
  [new RegExp(`^!\\s*(${KEY})$`), ([, key]) => ({ key: key!, operator: 'absent' })],
  [new RegExp(`^(${KEY})$`), ([, key]) => ({ key: key!, operator: 'exists' })],
];

const values = (list: string): string[] => list.split(',').map((value) => value.trim());

/**
 * `key=value`, `key!=value`, `key in (a,b)`, `key` (present), `!key`, joined by commas; all must hold.
 * @throws MeshError BAD_SELECTOR naming the part that does not parse
 */
export function parseSelector(text: string): Selector {
  if (text.trim() === '') return [];
  const parts = text.split(/,(?![^()]*\))/);
  return parts.map((raw) => {
    const part = raw.trim();
    for (const [pattern, make] of PATTERNS) {
      const match = pattern.exec(part);
      if (match) return make(match);
    }
    throw new MeshError('BAD_SELECTOR', `"${part}" in the selector "${text}" does not parse`);
  });
}

/** The first requirement that the labels do not meet, as people write it; undefined when all are met. */
export function unmetRequirement(selector: Selector, labels: ReadonlyMap<string, string>): string | undefined {
  for (const requirement of selector) {
    const { key } = requirement;
    const actual = labels.get(key);
    switch (requirement.operator) {
      case 'exists':
        if (actual === undefined) return `label ${key} is missing`;
        break;
      case 'absent':
        if (actual !== undefined) return `label ${key} is present`;
        break;
      case 'equals':
        if (actual !== requirement.value) return `label ${key} is ${actual ?? 'missing'}, not ${requirement.value}`;
        break;
      case 'differs':
        if (actual === requirement.value) return `label ${key} is ${actual}`;
        break;
      case 'in':
        if (actual === undefined || !requirement.values.includes(actual))
          return `label ${key} is ${actual ?? 'missing'}, not one of ${requirement.values.join(', ')}`;
        break;
    }
  }
  return undefined;
}
