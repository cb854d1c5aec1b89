import { request as httpsRequest } from 'node:https';
import { X509Certificate } from 'node:crypto';
import { Client } from '@grpc/grpc-js';
import { test } from 'tap';
import { type Credential, channelCredentials, channelOptions } from '../../link/credentials.js';
import { Finished, Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import { makeApi } from '../../sdk/api.js';
import { OPERATOR, submission, submit } from '../../test/support/plane.js';
import { hello, next, openFront } from '../../test/support/front.js';

test('roles over the wire: submitters their own, viewers no results, agents nothing of it', async (t) => {
  const front = await openFront(t);
  const anna = front.api('submitter', 'anna');
  const bert = front.api('submitter', 'bert');
  const viewer = front.api('viewer', 'wall');
  const operator = front.api('operator', 'admin');
  const job = await submit(front.plane, 1);
  t.match(await anna.getJob({ id: job.id }), { job: { id: job.id, submitter: 'anna' } });
  await t.rejects(bert.getJob({ id: job.id }), { code: 'NOT_FOUND' });
  await t.rejects(bert.cancelJob({ id: job.id }), { code: 'NOT_FOUND' });
  t.match(await viewer.getJob({ id: job.id }), { job: { id: job.id } });
  await t.rejects(viewer.cancelJob({ id: job.id }), { code: 'DENIED' });
  await t.rejects(viewer.createToken({ role: 'agent', name: '', ttlMs: 5000, uses: 1, replace: false }), {
    code: 'DENIED',
  });
  const session = front.agent(front.mesh.credential('agent', 'attic')).session();
  session.on('error', () => undefined);
  session.write(hello());
  const { groups } = await next(session, 'assign');
  const finished = Finished.fromPartial({
    ...{ job: job.seq, index: 0, generation: groups[0]?.generations[0] ?? 0 },
    ...{ outcome: Outcome.SUCCEEDED, resultJson: '"the secret"' },
  });
  session.write({ body: { $case: 'finished', value: { items: [finished], runs: [] } } });
  await next(session, 'finishedAck');
  const tasks = { job: job.id, status: '', limit: 0, cursor: '', index: undefined };
  t.match((await anna.listTasks(tasks)).items, [{ resultJson: '"the secret"', node: 'attic' }]);
  t.match((await viewer.listTasks(tasks)).items, [{ resultJson: '', status: 'COMPLETED' }]);
  t.match((await operator.listNodes({})).items, [{ name: 'attic', state: 'HEALTHY', running: 0 }]);
  await t.rejects(operator.getNode({ name: 'nowhere' }), { code: 'NOT_FOUND' });
  session.cancel();
});

test('a submission that is broken off makes no job', async (t) => {
  const front = await openFront(t);
  const anna = front.api('submitter', 'anna');
  const { spec } = submission(1, { taskCount: 2, array: undefined });
  async function* broken() {
    yield { body: { $case: 'start' as const, value: { spec, idempotencyKey: 'k' } } };
    throw new Error('the list could not be read');
  }
  await t.rejects(anna.submitJob(broken()));
  await t.rejects(anna.submitJob((async function* () {})()), { code: 'BAD_SPEC' });
  t.same(await front.store.jobs.list({ limit: 10 }), []);
});

test('jobs that come in one call are taken or refused each by itself, as by a call of their own', async (t) => {
  const front = await openFront(t);
  const anna = front.api('submitter', 'anna');
  const { spec } = submission(3);
  const bad = { ...spec, name: 'x'.repeat(10_000) };
  const send = (jobs: { spec: typeof spec | undefined; idempotencyKey: string }[]) => anna.submitJobs({ jobs });
  const { outcomes } = await send([
    { spec, idempotencyKey: 'a' },
    { spec: bad, idempotencyKey: 'b' },
    { spec, idempotencyKey: '' },
    { spec: undefined, idempotencyKey: 'c' },
    { spec, idempotencyKey: 'a' },
    { spec: { ...spec, priority: 1 }, idempotencyKey: 'a' },
    { spec, idempotencyKey: 'd' },
  ]);
  const found = outcomes.map(({ outcome }) => (outcome?.$case === 'error' ? outcome.value.code : outcome?.value.id));
  const jobs = await front.store.jobs.list({ limit: 10 });
  t.equal(jobs.length, 2, 'one for each key');
  const [second, first] = jobs;
  t.same(found, [first?.id, 'BAD_SPEC', 'USAGE', 'BAD_SPEC', first?.id, 'IDEMPOTENCY_CONFLICT', second?.id]);
  t.match(jobs, [{ submitter: 'anna' }, { submitter: 'anna' }]);
  await front.plane.audit.idle();
  const audited = await front.store.audit.find({ action: 'job.submitted', limit: 10 });
  t.same(new Set(audited.map(({ target }) => target)), new Set([first?.id, second?.id]));
  await t.rejects(send([]), { code: 'USAGE' });
  await t.rejects(send(Array.from({ length: 101 }, (_, at) => ({ spec, idempotencyKey: `e${at}` }))), {
    code: 'USAGE',
  });
  await t.rejects(front.api('viewer', 'wall').submitJobs({ jobs: [{ spec, idempotencyKey: 'v' }] }), {
    code: 'DENIED',
  });
});

test('one call submits a job and follows it: as it was committed, its results, and its end', async (t) => {
  const front = await openFront(t);
  const anna = front.api('submitter', 'anna');
  const session = front.agent(front.mesh.credential('agent', 'attic')).session();
  session.on('error', () => undefined);
  session.write(hello());
  await next(session, 'welcome');
  const { spec } = submission(1, { taskCount: 2, array: undefined });
  const items = ['a', 'b'].map((value) => ({ value, files: [] }));
  const request = { spec, idempotencyKey: 'once', items, results: true };
  // Before anything is submitted: from then on the tasks may come at any time.
  let assigned = next(session, 'assign');
  const messages = anna.runJob(request)[Symbol.asyncIterator]();
  const first = (await messages.next()).value;
  t.match(first, { job: { submitter: 'anna', status: 'QUEUED', tasks: { total: 2 } }, results: [] });
  t.ok(await front.store.jobs.get(first.job.id), 'it is committed');
  for (let told = 0; told < 2; ) {
    const { groups } = await assigned;
    if (told + groups.flatMap(({ indexes }) => indexes).length < 2) assigned = next(session, 'assign');
    for (const { job, indexes, generations } of groups)
      for (const [at, index] of indexes.entries()) {
        told++;
        const finished = Finished.fromPartial({
          ...{ job, index, generation: generations[at] ?? 0 },
          ...{ outcome: Outcome.SUCCEEDED, resultJson: `"${index}"` },
        });
        session.write({ body: { $case: 'finished', value: { items: [finished], runs: [] } } });
      }
  }
  const rest = [];
  for (let message = await messages.next(); !message.done; message = await messages.next()) rest.push(message.value);
  t.same(
    rest.flatMap(({ results }) => results).map(({ resultJson }) => resultJson),
    ['"0"', '"1"'],
  );
  t.match(rest.at(-1), { job: { status: 'COMPLETED', tasks: { completed: 2 } } });
  t.same(
    rest.map(({ job }) => job !== undefined),
    rest.map((_, at) => at === rest.length - 1),
    'the job comes again only with its end',
  );

  const again = [];
  for await (const message of anna.runJob(request)) again.push(message);
  t.match(again[0], { job: { id: first.job.id, status: 'COMPLETED' } }, 'the same key is the same job');
  t.equal(again.flatMap(({ results }) => results).length, 2);
  const refused = async (over: object, code: string, api = anna) => {
    await t.rejects(
      api
        .runJob({ ...request, ...over })
        [Symbol.asyncIterator]()
        .next(),
      { code },
    );
  };
  await refused({ items: [] }, 'IDEMPOTENCY_CONFLICT');
  await refused({ spec: undefined }, 'BAD_SPEC');
  await refused({ idempotencyKey: '' }, 'USAGE');
  await refused({ idempotencyKey: 'more', items: items.slice(1) }, 'BAD_SPEC');
  await refused({ idempotencyKey: 'viewer' }, 'DENIED', front.api('viewer', 'wall'));
  session.cancel();
});

test('A12, A13: a revoked identity is refused on its open connection', async (t) => {
  const front = await openFront(t);
  const { mesh, plane, store } = front;
  const credential = mesh.credential('operator', 'eve');
  const leaf = new X509Certificate(credential.certificateChain);
  await store.certificates.record(
    {
      ...{ serial: leaf.serialNumber.toLowerCase().replace(/^0+/, ''), role: 'operator', name: 'eve' },
      ...{ fingerprint: 'ab'.repeat(32), publicKeyDigest: 'cd'.repeat(32), pem: credential.certificateChain },
      ...{ notBeforeMs: Date.parse(leaf.validFrom), notAfterMs: Date.parse(leaf.validTo) },
      ...{ revokedAtMs: undefined, tokenId: undefined },
    },
    { sameHolder: false },
  );
  const client = new Client(
    `ipv4:127.0.0.1:${front.port}`,
    channelCredentials(credential, mesh.meshId),
    channelOptions,
  );
  t.teardown(() => client.close());
  const eve = makeApi(client, MeshServiceService);
  await eve.listNodes({});
  await plane.issuance.revoke(OPERATOR, 'eve');
  await t.rejects(eve.listNodes({}), { code: 'REVOKED' });
});

test('HTTPS on the same port: health for anyone, metrics for those who may, problems as documents', async (t) => {
  const trouble: { reason?: string } = {};
  const front = await openFront(t, undefined, () => trouble.reason);
  const { mesh, port } = front;
  const get = (path: string, credential?: Credential) =>
    new Promise<{ status: number; type: string; body: string }>((resolve, reject) => {
      const call = httpsRequest(
        {
          ...{
            host: '127.0.0.1',
            port,
            path,
            ca: mesh.authority.rootPem,
            agent: false,
            checkServerIdentity: () => undefined,
          },
          ...(credential ? { cert: credential.certificateChain, key: credential.privateKey } : {}),
        },
        (response) => {
          let body = '';
          response.setEncoding('utf8').on('data', (text: string) => (body += text));
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'] ?? '', body }),
          );
        },
      );
      call.on('error', reject).end();
    });
  t.match(await get('/healthz'), { status: 200, body: '{"status":"ok"}' });
  t.match(await get('/readyz'), { status: 200, body: '{"status":"ready"}' });
  trouble.reason = 'the database does not answer';
  const notReady = await get('/readyz');
  t.match(notReady, { status: 503, type: /^application\/problem\+json/ });
  t.match(JSON.parse(notReady.body), { title: 'not ready', status: 503, detail: trouble.reason });
  for (const role of ['metrics', 'operator', 'viewer'] as const)
    t.match(await get('/metrics', mesh.credential(role, 'x')), { status: 200, body: /mesh_leader 1/ }, role);
  for (const role of ['agent', 'submitter', 'coordinator'] as const)
    t.equal((await get('/metrics', mesh.credential(role, 'x')).catch(() => ({ status: 403 }))).status, 403, role);
  t.match(await get('/metrics'), { status: 401, body: /client certificate/ });
  await front.plane.audit.idle();
  const denied = await front.store.audit.find({ action: 'call.denied', target: '/metrics', limit: 10 });
  t.same(new Set(denied.map(({ actor }) => actor)), new Set(['agent/x', 'submitter/x', 'coordinator/x', 'nobody']));
  t.match(denied[0], { address: '127.0.0.1', detail: /certificate/ }, 'who, from where and why');
  t.match(await get('/nowhere'), { status: 404, body: /there is nothing at/ });
});
