/** Files and folders that more people can reach than should. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Finding, finding } from './finding.js';

/** `secret`: nobody else reads or writes it. `private`: nobody else enters it. `owned`: nobody else puts anything there. */
type Kind = 'secret' | 'private' | 'owned';

const RULES: Readonly<Record<Kind, { forbidden: number; what: string; mend: string }>> = {
  secret: { forbidden: 0o077, what: 'can be read or changed by others', mend: 'chmod 600' },
  private: { forbidden: 0o077, what: 'can be entered by others', mend: 'chmod 700' },
  owned: { forbidden: 0o022, what: 'can be written to by others', mend: 'chmod go-w' },
};

/** Modes say nothing on Windows. What is missing exposes nothing. */
export function exposure(check: string, kind: Kind, path: string): Finding[] {
  if (process.platform === 'win32' || !existsSync(path)) return [];
  const { forbidden, what, mend } = RULES[kind];
  const mode = statSync(path).mode & 0o7777;
  if ((mode & forbidden) === 0) return [];
  return [finding(check, 'weak', `${path} ${what} (mode ${mode.toString(8)})`, `${mend} ${path}`)];
}

/** Every private key in a folder, whatever its name. */
export const keysIn = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => /\.key(?:\.next)?$/.test(name))
        .map((name) => join(folder, name))
    : [];

/** A coordinator's data directory: its keys, the password of its database, and the folder itself. */
export const coordinatorExposures = (check: string, dataDir: string): Finding[] => [
  ...exposure(check, 'private', dataDir),
  ...[...['ca', 'admin', '.'].flatMap((folder) => keysIn(join(dataDir, folder))), join(dataDir, 'postgres', 'password')]
    .map((path) => exposure(check, 'secret', path))
    .flat(),
];

/** An agent's: others may pass through it to the folders of their tasks, but put nothing into it. */
export const agentExposures = (check: string, dataDir: string): Finding[] => [
  ...exposure(check, 'owned', dataDir),
  ...keysIn(dataDir).flatMap((path) => exposure(check, 'secret', path)),
];
