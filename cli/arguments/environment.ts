import { MeshError } from '../../common/errors.js';

/**
 * `--env K=V` gives the value, `--env K` takes it from the environment of this command.
 * @throws MeshError USAGE for a wrong or reserved name, or a variable that is not set
 */
export function parseEnvironment(
  entries: readonly string[],
  environment: NodeJS.ProcessEnv,
): { [name: string]: string } {
  const result = new Map<string, string>();
  for (const entry of entries) {
    const at = entry.indexOf('=');
    const name = at < 0 ? entry : entry.slice(0, at);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      throw new MeshError('USAGE', `--env: "${name}" is not the name of a variable`, {
        hint: 'write --env NAME=VALUE, or --env NAME to take it from the environment',
      });
    if (name.startsWith('MESH_'))
      throw new MeshError('USAGE', `--env: ${name} is reserved`, {
        hint: 'names with MESH_ are set by the mesh itself',
      });
    const value = at < 0 ? environment[name] : entry.slice(at + 1);
    if (value === undefined)
      throw new MeshError('USAGE', `--env: ${name} is not set here`, { hint: `write --env ${name}=VALUE` });
    if (value.includes('\0')) throw new MeshError('USAGE', `--env: the value of ${name} contains a NUL byte`);
    result.set(name, value);
  }
  return Object.fromEntries(result);
}
