/**
 * Strings that mean something to somebody else: SQL, a shell, JavaScript's prototypes, a terminal, a path. Each is put into
 * every text field of every request there is, over the wire, as whoever may send it; then into a job that prints them back.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { BinaryWriter } from '@bufbuild/protobuf/wire';
import { Client, type ServiceError } from '@grpc/grpc-js';
import t, { before, test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { METHOD_ROLES } from '../../coordinator/rpc/roles.js';
import { channelCredentials, channelOptions, type Credential } from '../../link/credentials.js';
import { connect, type MeshConnection } from '../../sdk/connect.js';
import { makeSpec, submitJob } from '../../sdk/submit.js';
import { credentialIn, endures } from '../support/attacker.js';
import { query } from '../support/database.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { digestOf } from '../support/store-fixtures.js';

interface Field {
  name: string;
  number: number;
  type: string;
  typeName?: string;
}
interface Message {
  name: string;
  field?: Field[];
  nestedType?: Message[];
}
interface Method {
  name: string;
  inputType: string;
}
interface FileDescriptor {
  package: string;
  messageType?: Message[];
  service?: { name: string; method: Method[] }[];
}

const HOSTILE = [
  "'; drop table job; --",
  '$(id)',
  '`id`',
  '__proto__',
  'constructor',
  '{"__proto__":{"polluted":true}}',
  'a\nb\r\n{"level":"fatal"}',
  '../../../etc/passwd',
  '\u0000',
  '\u001b]0;owned\u0007\u202e',
  '%s%n%x',
  'x'.repeat(20_000),
];
const DEPTH_MAX = 6;

let mesh: Mesh;
let client: MeshConnection;
let credentials: Record<'operator' | 'agent', Credential>;

before(async () => {
  mesh = await startMesh(t, { coordinator: ['--max-request-rate', '100000'], agents: ['a1'] });
  client = await connect({ profile: mesh.profile });
  t.teardown(() => client.close());
  credentials = {
    operator: credentialIn(mesh.profile, 'client'),
    agent: credentialIn(join(mesh.root, 'agent-a1'), 'agent'),
  };
});

function contract(): { methods: { path: string; input: string }[]; messages: Map<string, Message> } {
  const buf = join(packageRoot, 'node_modules', '.bin', 'buf');
  const text = execFileSync(buf, ['build', '-o', '-#format=json'], { cwd: packageRoot, maxBuffer: 2 ** 26 });
  const { file } = JSON.parse(String(text)) as { file: FileDescriptor[] };
  const messages = new Map<string, Message>();
  const add = (prefix: string, message: Message): void => {
    const name = `${prefix}.${message.name}`;
    messages.set(name, message);
    for (const nested of message.nestedType ?? []) add(name, nested);
  };
  for (const { package: name, messageType = [] } of file) for (const message of messageType) add(`.${name}`, message);
  const methods = file.flatMap(({ package: name, service = [] }) =>
    service.flatMap((one) =>
      one.method.map((method) => ({ path: `/${name}.${one.name}/${method.name}`, input: method.inputType })),
    ),
  );
  return { methods, messages };
}

/** A message for each text or bytes field below, with that field set to the text and nothing else. */
function* hostile(
  messages: Map<string, Message>,
  type: string,
  text: string,
  depth = 0,
): Generator<[string, Uint8Array]> {
  if (depth > DEPTH_MAX) return;
  for (const field of messages.get(type)?.field ?? []) {
    if (field.type === 'TYPE_STRING' || field.type === 'TYPE_BYTES')
      yield [
        field.name,
        new BinaryWriter()
          .uint32(field.number * 8 + 2)
          .string(text)
          .finish(),
      ];
    else if (field.type === 'TYPE_MESSAGE' && field.typeName) {
      for (const [below, bytes] of hostile(messages, field.typeName, text, depth + 1))
        yield [
          `${field.name}.${below}`,
          new BinaryWriter()
            .uint32(field.number * 8 + 2)
            .bytes(bytes)
            .finish(),
        ];
    }
  }
}

const raw = (value: Uint8Array): Buffer => Buffer.from(value);

/** Sends one message, ends, and gives the status. */
function send(sender: Client, path: string, bytes: Uint8Array): Promise<number> {
  return new Promise((resolve) => {
    const stream = sender.makeBidiStreamRequest(path, raw, (answer) => answer, { deadline: Date.now() + 20_000 });
    stream.on('data', () => undefined);
    stream.on('end', () => resolve(0));
    stream.on('error', (error: ServiceError) => resolve(error.code));
    stream.write(bytes);
    stream.end();
  });
}

const rows = () =>
  query(mesh, async (sql) => {
    const counts: Record<string, number> = {};
    const tables = await sql<{ name: string }[]>`
      select relname as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace order by 1`;
    for (const { name } of tables) {
      const [found] = await sql<{ count: number }[]>`select count(*)::int as count from ${sql(name)}`;
      counts[name] = found?.count ?? -1;
    }
    return counts;
  });

/** What an asking changes anyway: entries of the audit, nodes that report. */
const EXPECTED = new Set(['audit', 'coordinator', 'leader', 'node']);

test('A24: hostile text in every text field of every request is inert', async (t) => {
  const { methods, messages } = contract();
  t.ok(methods.length > 20);
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const before = await rows();
  let sent = 0;
  await endures(t, mesh, 150, async () => {
    for (const role of ['operator', 'agent'] as const) {
      const credential = channelCredentials(credentials[role], client.profile.meshId);
      const sender = new Client(`ipv4:${mesh.coordinator.ready.address}`, credential, channelOptions);
      t.teardown(() => sender.close());
      for (const { path, input } of methods) {
        if (!METHOD_ROLES[path]?.includes(role)) continue;
        // A second session of a live agent would take its place.
        if (path.endsWith('/Session')) continue;
        const codes = new Set<number>();
        for (const text of HOSTILE) {
          const answers = [...hostile(messages, input, text)].map(([, bytes]) => send(sender, path, bytes));
          for (const code of await Promise.all(answers)) codes.add(code);
          sent += answers.length;
        }
        t.notOk(codes.has(2), `${path}: no unknown error`);
      }
    }
  });
  t.comment(`${sent} requests`);
  const failed = program.events.slice(mark).filter(({ event }) => event === 'rpc.failed' || event === 'no-json');
  t.strictSame(failed, [], 'nothing of it is a defect, and the log is JSON line by line');
  const after = await rows();
  t.strictSame(Object.keys(after), Object.keys(before), 'no table is gone');
  const changed = Object.keys(after).filter((name) => !EXPECTED.has(name) && after[name] !== before[name]);
  t.strictSame(changed, [], 'and no row came or went');
});

test('A24: in a job they are arguments, and come back as they were', async (t) => {
  const texts = HOSTILE.filter((text) => !text.includes('\0') && text.length < 1000);
  const environment = Object.fromEntries(texts.map((text, i) => [`HOSTILE_${i}`, text]));
  const argv = ['node', '-e', 'process.stdout.write(JSON.stringify([process.argv.slice(1), process.env]))', ...texts];
  const work = { $case: 'process' as const, value: { argv, environment } };
  const spec = makeSpec({ name: "Robert'; drop table job; --", work, taskCount: 1 });
  const { id } = await submitJob(client.mesh, { spec, idempotencyKey: "'; $(id) __proto__" });
  t.equal((await mesh.wait(id)).status, 'COMPLETED');
  for await (const { items } of client.mesh.readResults({ job: id, follow: false })) {
    const text = JSON.parse(items[0]?.resultJson ?? '""') as string;
    const [given, seen] = JSON.parse(text) as [string[], Record<string, string>];
    t.strictSame(given, texts);
    for (const [name, value] of Object.entries(environment)) t.equal(seen[name], value, name);
  }
});

test('A22: staged files that would leave their directory, or are not what is said, are refused by name', async (t) => {
  const content = 'harmless';
  const digest = digestOf(content);
  await client.mesh.putBlob([{ digest, data: Buffer.from(content) }]);
  await t.rejects(client.mesh.putBlob([{ digest: digestOf('other'), data: Buffer.from(content) }]), {
    code: 'BAD_SPEC',
    message: /arrived damaged/,
  });
  await t.rejects(client.mesh.putBlob([{ digest: '../../../../tmp/owned', data: Buffer.from(content) }]), {
    code: 'BAD_SPEC',
  });
  const file = (path: string, over: object = {}) => ({
    path,
    digest,
    sizeBytes: content.length,
    executable: false,
    ...over,
  });
  const submit = (files: ReturnType<typeof file>[]) => {
    const work = { $case: 'process' as const, value: { argv: ['true'], environment: {} } };
    const spec = makeSpec({ name: '', work, taskCount: 1 });
    return submitJob(client.mesh, { spec, idempotencyKey: `${Math.random()}`, items: [{ value: '', files }] });
  };
  const before = await rows();
  const outside = join(mesh.root, 'owned');
  const refused: [string, ReturnType<typeof file>[], RegExp][] = [
    ['above', [file('../owned')], /"\.\.\/owned" of task 0 leaves the directory/],
    ['above, further down', [file('a/../../owned')], /"a\/\.\.\/\.\.\/owned".+leaves the directory/],
    ['absolute', [file(outside)], /owned" of task 0 is absolute/],
    ['a drive', [file('C:/owned')], /"C:\/owned".+is absolute/],
    ['a backslash', [file('..\\owned')], /owned".+holds a backslash/],
    ['NUL', [file('a\0b')], /"a\?b".+holds a NUL/],
    ['not normalised', [file('a/./b')], /"a\/\.\/b".+is not normalised/],
    ['a device by name', [file('/dev/null')], /"\/dev\/null".+is absolute/],
    ['twice', [file('a'), file('a')], /two staged files.+"a"/],
    ['a file in the way of a folder', [file('a'), file('a/b')], /"a" is both a staged file and a folder/],
    ['differ in case alone', [file('Readme'), file('README')], /"README" and "Readme"/],
    ['folders that differ in case alone', [file('Data/x'), file('data/y')], /"data" and "Data"/],
    ['the same to some file systems', [file('\u00e9'), file('e\u0301')], /would be one on some nodes/],
    ['a size that lies', [file('bomb', { sizeBytes: 1 })], /"bomb" has 8 bytes, not the 1/],
    ['an impossible size', [file('neg', { sizeBytes: 2 ** 53 })], /deserializing request|impossible size/],
    ['a digest that is none', [file('x', { digest: `../${digest.slice(3)}` })], /"x".+has no valid SHA-256/],
    ['too many', Array.from({ length: 10_001 }, (_, i) => file(`f${i}`)), /10001 files.+--max-task-files/],
  ];
  for (const [what, files, message] of refused) await t.rejects(submit(files), { message }, what);
  t.strictSame({ ...(await rows()), audit: 0 }, { ...before, audit: 0 }, 'no row of it');
  t.notOk(existsSync(outside) || existsSync('/tmp/owned'));
  const { id } = await submit([file('deep/er/ok.txt'), file('ok.txt')]);
  t.equal((await mesh.wait(id)).status, 'COMPLETED', 'what is in order runs');
});
