import { MeshError } from '../../common/errors.js';
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';

const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,62}$/;

/** `mesh secret set NAME`: told before the value is asked for. @throws MeshError BAD_NAME */
export function parseSecretName(text: string): string {
  if (NAME.test(text)) return text;
  throw new MeshError('BAD_NAME', `"${text.slice(0, 80)}" cannot be the name of a secret`, {
    hint: 'names are 1 to 63 letters, digits and _, no digit first',
  });
}

/**
 * `--secret NAME[=VARIABLE]` gives the value in a variable, `--secret-file NAME[=VARIABLE]` a file in memory and its path
 * in a variable. @throws MeshError USAGE
 */
export const parseSecrets = (variables: readonly string[], files: readonly string[]): SecretUse[] => [
  ...variables.map((text) => parseUse('--secret', text, false)),
  ...files.map((text) => parseUse('--secret-file', text, true)),
];

function parseUse(flag: string, text: string, file: boolean): SecretUse {
  const at = text.indexOf('=');
  const name = at < 0 ? text : text.slice(0, at);
  const variable = at < 0 ? (file ? `${name}_FILE` : name) : text.slice(at + 1);
  if (!NAME.test(name))
    // What was typed may be the value: it is not repeated.
    throw new MeshError('USAGE', `${flag}: that is not the name of a secret`, {
      hint: `write ${flag} NAME, of a secret that was set with: mesh secret set NAME`,
    });
  if (!NAME.test(variable))
    throw new MeshError('USAGE', `${flag}: what follows ${name}= is not the name of a variable`, {
      hint: `write ${flag} ${name}=VARIABLE; the value is never typed here`,
    });
  return { name, variable, file, owner: '' };
}
