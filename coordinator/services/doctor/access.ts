import { finding } from '../../../common/finding.js';
import { PROFILES } from '../../../common/identity/profile.js';
import { formatDuration } from '../../../common/units.js';
import { formatDays } from '../lifetimes.js';
import type { Check } from './check.js';

/** A token that lies around longer, or for more machines, is worth finding. */
const TOKEN_MS_MAX = 86_400_000;
const TOKEN_USES_MAX = 20;
/** Beside the usual lifetime of a role: a little more is no finding. */
const LIFE_FACTOR = 1.5;
/** Of one kind; a mesh with more has one decision to make, not a hundred. */
const NAMED_MAX = 20;

export const tokens: Check = async ({ store, nowMs }) =>
  (await store.tokens.list())
    .filter((token) => token.usesLeft > 0 && token.expiresAtMs > nowMs)
    .flatMap(({ id, role, name, usesLeft, expiresAtMs }) => {
      const leftMs = expiresAtMs - nowMs;
      const reasons = [
        ...(leftMs > TOKEN_MS_MAX ? [`for ${formatDuration(leftMs)}`] : []),
        ...(usesLeft > TOKEN_USES_MAX || (role !== 'agent' && usesLeft > 1) ? [`${usesLeft} times`] : []),
      ];
      if (reasons.length === 0) return [];
      const who = name === undefined ? role : `${role} ${name}`;
      return [
        finding(
          'tokens.open',
          'weak',
          `token ${id} for the role ${who} can be used ${reasons.join(', ')} more`,
          `mesh token revoke ${id}`,
        ),
      ];
    });

export const certificates: Check = async ({ store, nowMs }) => {
  const long = (await store.certificates.list()).filter(
    (row) =>
      row.revokedAtMs === undefined &&
      row.notAfterMs > nowMs &&
      row.notAfterMs - row.notBeforeMs > PROFILES[row.role].lifetimeMs * LIFE_FACTOR,
  );
  return long.slice(0, NAMED_MAX).map(({ role, name, serial, notAfterMs }) => {
    const usual = formatDuration(PROFILES[role].lifetimeMs);
    return finding(
      'certificates.life',
      'weak',
      `certificate ${serial} of ${role}/${name} holds until ${new Date(notAfterMs).toISOString()}; usual is ${usual}, renewed by itself`,
      `mesh-ca revoke ${serial}, and let ${name} join again with a token that names it`,
    );
  });
};

export const approval: Check = ({ config: { approveNodes } }) =>
  approveNodes
    ? []
    : [
        finding(
          'nodes.approval',
          'notice',
          'whoever has a token adds a machine, without anybody looking at it',
          'start every coordinator with --approve-nodes, then: mesh nodes approve NAME',
        ),
      ];

export const recovery: Check = ({ config: { recoverWithin } }) =>
  recoverWithin === 0
    ? []
    : [
        finding(
          'recovery.window',
          'notice',
          `an agent that was off comes back with its expired certificate for ${formatDays(recoverWithin)}; so does who stole that machine's disk`,
          'revoke what is lost (mesh revoke NAME), or start every coordinator with a shorter --recover-within, or 0',
        ),
      ];

export const nodes: Check = async ({ store }) =>
  (await store.nodes.all())
    .filter(({ revoked, capabilities }) => !revoked && !capabilities.sandboxes.includes('bubblewrap'))
    .slice(0, NAMED_MAX)
    .map(({ name }) =>
      finding(
        'nodes.sandbox',
        'weak',
        `tasks on ${name} are not in the bubblewrap sandbox: they see what their user sees`,
        `on ${name}: apt install bubblewrap, then start its agent again; its log says what is missing`,
      ),
    );

/** Under an ordinary agent such a task is the agent, key included; under root's the user of all tasks, sandboxed ones too. */
export const unsandboxed: Check = async ({ store }) => {
  const names = (await store.nodes.all())
    .filter(
      ({ revoked, capabilities: { sandboxes } }) => !revoked && sandboxes.length > 1 && sandboxes.includes('process'),
    )
    .map(({ name }) => name);
  if (names.length === 0) return [];
  const shown = names.length > NAMED_MAX ? [...names.slice(0, NAMED_MAX), '…'] : names;
  return [
    finding(
      'nodes.unsandboxed',
      'notice',
      `a job may ask for no sandbox (--sandbox process), and then sees what others are given, on ${shown.join(', ')}`,
      'start these agents with --sandbox auto, unless all submitters trust each other',
    ),
  ];
};
