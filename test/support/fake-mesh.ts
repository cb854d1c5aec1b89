/** A MeshService in this process: what a test implements of it, over a real gRPC server on loopback without TLS. */
import { Client, credentials, Server, status, type UntypedServiceImplementation } from '@grpc/grpc-js';
import { type MeshServiceServer, MeshServiceService } from '../../proto/gen/mesh/v1/mesh.js';
import { type Api, makeApi } from '../../sdk/api.js';
import { serveHere } from './serve-here.js';

export interface FakeMesh {
  mesh: Api<typeof MeshServiceService>;
  client: Client;
  address: string;
  stop(): Promise<void>;
}

const unimplemented = (name: string) => (call: { emit?: unknown }, callback?: unknown) => {
  const error = { code: status.UNIMPLEMENTED, details: `${name} is not part of this test` };
  if (typeof callback === 'function') (callback as (error: object) => void)(error);
  else (call as unknown as NodeJS.EventEmitter).emit('error', error);
};

export async function startFakeMesh(methods: Partial<MeshServiceServer>): Promise<FakeMesh> {
  const server = new Server();
  const rest = Object.keys(MeshServiceService).map((name) => [name, unimplemented(name)] as const);
  server.addService(MeshServiceService, { ...Object.fromEntries(rest), ...methods } as UntypedServiceImplementation);
  const address = await serveHere(server);
  const client = new Client(address, credentials.createInsecure());
  return {
    mesh: makeApi(client, MeshServiceService),
    client,
    address,
    stop: async () => {
      client.close();
      server.forceShutdown();
    },
  };
}
