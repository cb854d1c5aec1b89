import { Client, credentials } from '@grpc/grpc-js';
import { test } from 'tap';
import { startFakeMesh } from '../test/support/fake-mesh.js';
import { readyClient } from './channel.js';

const open = (address: string) => new Client(address, credentials.createInsecure());

test('the endpoint that answers is kept, whatever the others do', async (t) => {
  const [gone, fake] = [await startFakeMesh({}), await startFakeMesh({})];
  t.teardown(() => fake.stop());
  await gone.stop();
  const reached = await readyClient([gone.address, fake.address], open, 30_000);
  t.equal(reached?.endpoint, fake.address);
  reached?.client.close();
});

test('when all refuse, or there are none, it says so without waiting', async (t) => {
  const gone = await startFakeMesh({});
  await gone.stop();
  t.equal(await readyClient([gone.address], open, 30_000), undefined);
  t.equal(await readyClient([], open, 30_000), undefined);
});
