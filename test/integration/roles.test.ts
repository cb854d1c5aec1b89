/** Every method for every role, through the real door and the real gate, over mutual TLS. */
import { Client, type ChannelCredentials, credentials, type ServiceError } from '@grpc/grpc-js';
import { test, type Test } from 'tap';
import { fromServiceError } from '../../common/grpc-errors.js';
import { ROLES, type Role } from '../../common/identity/identity.js';
import { JOB_METHODS, METHOD_ROLES } from '../../coordinator/rpc/roles.js';
import { channelCredentials, channelOptions } from '../../link/credentials.js';
import { type Front, openFront } from '../support/front.js';
import { submit } from '../support/plane.js';

const CALLERS = [...ROLES, 'nobody'] as const;
type Caller = (typeof CALLERS)[number];

const same = (bytes: Buffer): Buffer => bytes;

/** A message with this text in its first field. */
const naming = (text: string): Buffer => Buffer.concat([Buffer.from([0x0a, text.length]), Buffer.from(text)]);

function clientOf(t: Test, { mesh, port }: Front, caller: Caller, name: string): Client {
  const checkServerIdentity = () => undefined;
  const secure: ChannelCredentials =
    caller === 'nobody'
      ? credentials.createSsl(Buffer.from(mesh.authority.rootPem), null, null, { checkServerIdentity })
      : channelCredentials(mesh.credential(caller, name), mesh.meshId);
  const client = new Client(`ipv4:127.0.0.1:${port}`, secure, channelOptions);
  t.teardown(() => client.close());
  return client;
}

/** Calls with one message, whatever kind of method it is; the code of what went wrong, or `ok` at the first answer. */
function codeOf(client: Client, path: string, message: Buffer): Promise<string> {
  return new Promise((resolve) => {
    const call = client.makeBidiStreamRequest(path, same, same);
    call.on('error', (error: ServiceError) => resolve(fromServiceError(error).code));
    call.on('end', () => resolve('ok'));
    call.on('data', () => {
      resolve('ok');
      call.cancel();
    });
    call.write(message);
    call.end();
  });
}

const isRefusal = (code: string): boolean => code === 'DENIED' || code === 'UNAUTHENTICATED';

test('a role gets past the gate of a method exactly where the table says so, and each refusal is audited', async (t) => {
  const front = await openFront(t);
  let refused = 0;
  for (const caller of CALLERS) {
    const client = clientOf(t, front, caller, 'someone');
    for (const [path, allowed] of Object.entries(METHOD_ROLES)) {
      const code = await codeOf(client, path, Buffer.alloc(0));
      t.equal(!isRefusal(code), allowed.includes(caller), `${caller} ${path}: ${code}`);
      if (isRefusal(code)) refused++;
    }
    client.close();
  }
  await front.plane.stop();
  const entries = await front.store.audit.find({ action: 'call.denied', limit: 1000 });
  const times = entries.reduce((sum, { detail }) => sum + (JSON.parse(detail) as { times: number }).times, 0);
  t.equal(times, refused, 'counted to the last one');
  t.ok(entries.length <= 2 * 65, `and bounded: ${entries.length} entries`);
  const actors = new Set(entries.map(({ actor }) => actor));
  for (const caller of CALLERS)
    if (caller !== 'operator')
      t.ok(actors.has(caller === 'nobody' ? 'nobody' : `${caller}/someone`) || actors.has('others'), caller);
});

test('to a submitter there are no jobs but their own, whatever they ask', async (t) => {
  const front = await openFront(t);
  const job = await submit(front.plane, 1);
  const client = (caller: Role, name: string) => clientOf(t, front, caller, name);
  const people = { anna: client('submitter', 'anna'), bert: client('submitter', 'bert') };
  const operator = client('operator', 'admin');
  for (const path of JOB_METHODS) {
    const missing = await codeOf(people.bert, path, naming('1m7xybh3pbw2xjhd'));
    t.equal(missing, 'NOT_FOUND', path);
    t.equal(await codeOf(people.bert, path, naming(job.id)), missing, `${path}: what is not theirs is not there`);
    t.not(await codeOf(operator, path, naming(job.id)), 'NOT_FOUND', `${path}: operators see all`);
    t.not(await codeOf(people.anna, path, naming(job.id)), 'NOT_FOUND', `${path}: its owner does`);
  }
  const listed = async (name: string) =>
    (await front.api('submitter', name).listJobs({ status: '', limit: 0, cursor: '' })).items;
  t.same(await listed('bert'), []);
  t.same(new Set((await listed('anna')).map(({ submitter }) => submitter)), new Set(['anna']));
});
