/** Output on its way in and out without copies that nobody needs; the bytes are those of the generated encoder and decoder. */
import { ViewReader, WirePieces } from '../../common/wire-pieces.js';
import { StreamLogsRequest } from '../../proto/gen/mesh/v1/agent.js';
import { Stream } from '../../proto/gen/mesh/v1/common.js';
import { LogEntry, type ReadLogsResponse } from '../../proto/gen/mesh/v1/mesh.js';

/** Field 1 of the message is an entry, field 5 of an entry its output, the last field it has; both with a length. */
const ENTRY_TAG = (1 << 3) | 2;
const DATA_TAG = (5 << 3) | 2;
const NOTHING = Buffer.alloc(0);
/** Of a message whose output is not copied from it, output is at least this share: all of it is held for what is held of it. */
const OUTPUT_SHARE_MIN = 0.5;

/** What a reader of logs is sent. */
export function encodeLogs({ items }: ReadLogsResponse): WirePieces {
  const pieces = new WirePieces();
  for (const entry of items) pieces.nest(ENTRY_TAG, LogEntry.encode({ ...entry, data: NOTHING }), DATA_TAG, entry.data);
  return pieces;
}

/** What an agent streams. @throws when it is not such a message */
export function decodeOutput(message: Buffer): StreamLogsRequest {
  const reader = new ViewReader(message);
  const request = StreamLogsRequest.decode(reader);
  let bytes = 0;
  for (const chunk of request.chunks) {
    chunk.data = reader.viewOf(chunk.data);
    if (chunk.stream !== Stream.SYSTEM) bytes += chunk.data.length;
  }
  return bytes < message.length * OUTPUT_SHARE_MIN ? StreamLogsRequest.decode(message) : request;
}
