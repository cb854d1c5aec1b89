import { MeshError } from '../../common/errors.js';
import {
  type ListNamespacesRequest,
  type ListNamespacesResponse,
  type Namespace,
  type NamespaceServiceServer,
  NamespaceServiceService as Service,
  type RemoveNamespaceRequest,
  type RemoveNamespaceResponse,
  type SetNamespaceRequest,
  type SetNamespaceResponse,
} from '../../proto/gen/mesh/v1/namespace.js';
import { actorOf } from '../services/audit.js';
import type { Namespaces } from '../services/namespaces.js';
import { callerOf } from './authority-services.js';
import type { Gate } from './authorize.js';

export interface NamespacePlane {
  /** @throws MeshError NOT_LEADER that says where to go */
  lead(): { readonly namespaces: Namespaces };
}

/** Words of people for the quotas. */
const QUOTA_NAMES = { running: 'running', queued: 'queued', cpus: 'cpuMillis', bytes: 'bytes' } as const;
type Word = keyof typeof QUOTA_NAMES;

export function makeNamespaceService(gate: Gate, plane: NamespacePlane): NamespaceServiceServer {
  const all = async (namespaces: Namespaces): Promise<Namespace[]> =>
    (await namespaces.list()).map(({ row, usage }) => ({ ...row, usage }));
  return {
    listNamespaces: gate.unary<ListNamespacesRequest, ListNamespacesResponse>(
      Service.listNamespaces.path,
      async (_request, context) => {
        const { namespaces } = plane.lead();
        const { role, name } = callerOf(context);
        const items = await all(namespaces);
        if (role !== 'submitter') return { items };
        const own = items.filter((item) => item.name === namespaces.nameOf(name));
        return { items: own.map((item) => ({ ...item, members: item.members.filter((member) => member === name) })) };
      },
    ),
    setNamespace: gate.unary<SetNamespaceRequest, SetNamespaceResponse>(
      Service.setNamespace.path,
      async (request, context) => {
        const { namespaces } = plane.lead();
        await namespaces.set({ ...request, quotas: quotasOf(request) }, actorOf(context));
        return { namespace: (await all(namespaces)).find(({ name }) => name === request.name) };
      },
    ),
    removeNamespace: gate.unary<RemoveNamespaceRequest, RemoveNamespaceResponse>(
      Service.removeNamespace.path,
      async ({ name }, context) => {
        await plane.lead().namespaces.remove(name, actorOf(context));
        return {};
      },
    ),
  };
}

function quotasOf({ quotas, unlimited }: SetNamespaceRequest) {
  const { running, queued, cpuMillis, bytes } = quotas ?? {};
  const change: Record<(typeof QUOTA_NAMES)[Word], number | null | undefined> = { running, queued, cpuMillis, bytes };
  for (const word of unlimited) {
    if (!Object.hasOwn(QUOTA_NAMES, word))
      throw new MeshError('USAGE', `there is no quota "${word.slice(0, 80)}"`, {
        hint: `quotas are ${Object.keys(QUOTA_NAMES).join(', ')}`,
      });
    change[QUOTA_NAMES[word as Word]] = null;
  }
  return change;
}
