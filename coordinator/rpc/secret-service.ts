import type {
  ListSecretsRequest,
  ListSecretsResponse,
  RemoveSecretRequest,
  RemoveSecretResponse,
  Secret,
  SecretServiceServer,
  SetSecretRequest,
  SetSecretResponse,
  ShareKeyRequest,
  ShareKeyResponse,
} from '../../proto/gen/mesh/v1/secret.js';
import { SecretServiceService as Definition } from '../../proto/gen/mesh/v1/secret.js';
import type { SecretRow } from '../ports.js';
import { actorOf } from '../services/audit.js';
import type { Secrets } from '../services/secrets.js';
import type { Gate } from './authorize.js';

export interface SecretPlane {
  /** @throws MeshError NOT_LEADER */
  lead(): unknown;
  readonly secrets: Secrets;
}

const present = ({ name, owner, sizeBytes, setAtMs, setBy }: SecretRow): Secret => ({
  ...{ name, owner, sizeBytes, setBy },
  setAtMs: Math.round(setAtMs),
});

/** Values go in here and out to agents alone. The key is given by whichever coordinator has it, leader or not. */
export function makeSecretService(gate: Gate, plane: SecretPlane): SecretServiceServer {
  const secrets = () => {
    plane.lead();
    return plane.secrets;
  };
  return {
    setSecret: gate.unary<SetSecretRequest, SetSecretResponse>(Definition.setSecret.path, async (request, context) => ({
      secret: present(await secrets().set(actorOf(context), request)),
    })),
    listSecrets: gate.unary<ListSecretsRequest, ListSecretsResponse>(
      Definition.listSecrets.path,
      async (_, context) => ({ items: (await secrets().list(actorOf(context))).map(present) }),
    ),
    removeSecret: gate.unary<RemoveSecretRequest, RemoveSecretResponse>(
      Definition.removeSecret.path,
      async (request, context) => {
        await secrets().remove(actorOf(context), request);
        return {};
      },
    ),
    shareKey: gate.unary<ShareKeyRequest, ShareKeyResponse>(Definition.shareKey.path, async (_, context) => ({
      key: await plane.secrets.shareKey(actorOf(context)),
    })),
  };
}
