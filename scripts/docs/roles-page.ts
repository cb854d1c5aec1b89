/** docs/roles.md, from the table that the coordinator enforces. */
import { groupBy } from '../../common/group-by.js';
import { ROLES } from '../../common/identity/identity.js';
import { type Caller, METHOD_ROLES, PATH_ROLES, RESTRICTIONS } from '../../coordinator/rpc/roles.js';

const CALLERS: readonly Caller[] = [...ROLES, 'nobody', 'expired'];

const INTRODUCTION = `# Roles

Generated from [coordinator/rpc/roles.ts](../coordinator/rpc/roles.ts) by \`npm run docs\`; do not edit.

Who may call what. The role is the one in the URI of the certificate; \`nobody\` is a peer without one, or with one that will not do.
What is not in these tables is refused. A refused call is audited (\`call.denied\`), in number. What the roles are for:
[security.md](security.md#roles).
`;

const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;

function table(title: string, rows: readonly (readonly [string, readonly Caller[] | 'anyone', string])[]): string {
  const head = row([title, ...CALLERS]) + row(['---', ...CALLERS.map(() => '---')]);
  return (
    head +
    rows
      .map(([name, allowed, path]) =>
        row([
          `\`${name}\``,
          ...CALLERS.map((caller) =>
            allowed === 'anyone' || allowed.includes(caller) ? (RESTRICTIONS[path]?.[caller] ?? 'yes') : '',
          ),
        ]),
      )
      .join('')
  );
}

export function rolesPage(): string {
  const services = groupBy(Object.entries(METHOD_ROLES), ([path]) => path.split('/')[1] as string);
  const parts = [...services].map(([service, methods]) => {
    const rows = methods.map(([path, allowed]) => [path.split('/')[2] as string, allowed, path] as const);
    return `## ${service.replace('mesh.v1.', '')}\n\n${table('method', rows)}`;
  });
  const paths = Object.entries(PATH_ROLES).map(([path, allowed]) => [path, allowed, path] as const);
  return [INTRODUCTION, ...parts, `## HTTPS\n\n${table('path', paths)}`].join('\n');
}
