import { type Server, ServerCredentials } from '@grpc/grpc-js';

/** Where a server without TLS now listens, as host:port. The system chooses the port. */
export async function serveHere(server: Server): Promise<string> {
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  );
  return `127.0.0.1:${port}`;
}
