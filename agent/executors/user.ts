import { readFileSync } from 'node:fs';
import { MeshError } from '../../common/errors.js';

/** The unprivileged user that tasks of a root agent run as. */
export interface TaskUser {
  name: string;
  uid: number;
  gid: number;
}

export const TASK_USER_DEFAULT = 'nobody';

/**
 * Looks a user up in /etc/passwd; `uid:gid` names one that is not listed there.
 * @throws MeshError BAD_CONFIG when there is no such user or it is root
 */
export function findTaskUser(name: string, passwdPath = '/etc/passwd'): TaskUser {
  const numbers = /^(\d{1,10}):(\d{1,10})$/.exec(name);
  if (numbers) return unprivileged({ name, uid: Number(numbers[1]), gid: Number(numbers[2]) });
  for (const line of readPasswd(passwdPath).split('\n')) {
    const [entry, , uid, gid] = line.split(':');
    if (entry === name && uid && gid) return unprivileged({ name, uid: Number(uid), gid: Number(gid) });
  }
  throw new MeshError(
    'BAD_CONFIG',
    `the user ${JSON.stringify(name)} that tasks should run as is not in ${passwdPath}`,
    {
      hint: 'name another one, or write it as uid:gid',
    },
  );
}

function unprivileged(user: TaskUser): TaskUser {
  if (user.uid > 0 && user.gid > 0) return user;
  throw new MeshError('BAD_CONFIG', `tasks must not run as ${user.name}: that is root`, {
    hint: `use an unprivileged user such as ${TASK_USER_DEFAULT}`,
  });
}

function readPasswd(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('BAD_CONFIG', `${path} cannot be read to find the user for tasks`, {
      hint: 'write the user as uid:gid',
      cause: error,
    });
  }
}

/** Who tasks run as: another user when the agent is root, otherwise undefined, the agent's own. */
export function taskUser(setting: string = TASK_USER_DEFAULT): TaskUser | undefined {
  return process.getuid?.() === 0 ? findTaskUser(setting) : undefined;
}
