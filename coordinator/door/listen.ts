import { createServer } from 'node:net';
import { MeshError, systemCode } from '../../common/errors.js';

/**
 * That somebody could listen there, before anything is made that would have to be taken down again.
 * @throws MeshError IN_USE or USAGE when not
 */
export async function assertListenable(host: string | undefined, port: number): Promise<void> {
  const probe = createServer();
  await new Promise<void>((resolve, reject) => {
    probe.once('error', (error) => reject(listenError(error, host, port)));
    probe.listen({ port, ...(host === undefined ? {} : { host }) }, resolve);
  });
  await new Promise((resolve) => probe.close(resolve));
}

export function listenError(error: Error, host: string | undefined, port: number): MeshError {
  const code = systemCode(error);
  const where = host === undefined ? `port ${port}` : `port ${port} of ${host}`;
  const cause = { cause: error };
  if (code === 'EADDRINUSE')
    return new MeshError('IN_USE', `${where} is in use by another process`, {
      ...cause,
      hint: 'stop the other process, or choose another port with --port (0 picks a free one)',
    });
  if (code === 'EACCES')
    return new MeshError('USAGE', `this user may not listen on ${where}`, {
      ...cause,
      hint: 'choose one above 1023 with --port',
    });
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return new MeshError('USAGE', `${host ?? 'that'} is not an address of this machine`, {
      ...cause,
      hint: 'name one with --listen, or leave it out to listen on all',
    });
  return new MeshError('IN_USE', `cannot listen on ${where} (${code})`, cause);
}
