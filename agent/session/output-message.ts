import { makeGenericClientConstructor } from '@grpc/grpc-js';
import { WirePieces } from '../../common/wire-pieces.js';
import { AgentServiceClient, AgentServiceService, StreamLogsRequest } from '../../proto/gen/mesh/v1/agent.js';
import { OutputChunk } from '../../proto/gen/mesh/v1/common.js';
import { outputBuffers } from '../output/buffers.js';

/** Field 4 of the message is a chunk, field 4 of a chunk its output, the last field it has; both with a length. */
const CHUNK_TAG = (4 << 3) | 2;
const DATA_TAG = (4 << 3) | 2;
const NOTHING = Buffer.alloc(0);

/** The bytes that the generated encoder makes, without its copies of the output. */
export function encodeOutput({ chunks, ...attempt }: StreamLogsRequest): WirePieces {
  const pieces = new WirePieces();
  pieces.push(StreamLogsRequest.encode({ ...attempt, chunks: [] }).finish());
  for (const chunk of chunks)
    pieces.nest(CHUNK_TAG, OutputChunk.encode({ ...chunk, data: NOTHING }), DATA_TAG, chunk.data);
  return pieces;
}

const streamLogs = {
  ...AgentServiceService.streamLogs,
  requestSerialize: (request: StreamLogsRequest) => {
    const message = encodeOutput(request);
    // The frame that gRPC makes.
    outputBuffers.made(message.length);
    return message.serialized;
  },
};

/** What an agent calls a coordinator with. */
export const AgentClient = makeGenericClientConstructor(
  { ...AgentServiceService, streamLogs },
  'mesh.v1.AgentService',
) as unknown as typeof AgentServiceClient;
