/** One HTTPS request to a coordinator, with or without a certificate. */
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';

export interface Answer {
  status: number;
  type: string;
  body: string;
}

/** The files that `mesh-ca issue NAME --out FOLDER` writes; without a name only the root, to check the coordinator. */
export function certificateFiles(folder: string, name?: string): { ca: string; cert?: string; key?: string } {
  const read = (file: string) => readFileSync(join(folder, file), 'utf8');
  const ca = read('ca.crt');
  return name === undefined ? { ca } : { ca, cert: read(`${name}.crt`), key: read(`${name}.key`) };
}

/** @param address `127.0.0.1:port`; that address is in the coordinator's certificate, and is checked */
export function get(address: string, path: string, files: ReturnType<typeof certificateFiles>): Promise<Answer> {
  const [host, port] = address.split(':');
  return new Promise((resolve, reject) => {
    const call = request({ host, port: Number(port), path, ...files, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (text: string) => (body += text));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body }),
      );
    });
    call.on('error', reject);
    call.end();
  });
}
