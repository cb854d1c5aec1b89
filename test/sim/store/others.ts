/** Nodes, the leader's row and the rest, as coordinator/store has them in SQL. */
import { CHAIN_START } from '../../../common/audit-chain.js';
import { MeshError } from '../../../common/errors.js';
import { namespaceStore } from './namespaces.js';
import type {
  CertificateRow,
  CertificateStore,
  JoinRequestStore,
  LeaderRow,
  NodeRow,
  SealedSecret,
  SecretRef,
  SecretRow,
  SecretStore,
  Store,
} from '../../../coordinator/ports.js';
import type { RunStatement } from './memory-store.js';
import type { Tables } from './tables.js';

type Others = Omit<Store, 'jobs' | 'tasks' | 'copies' | 'ping' | 'close'>;

export function otherStores(tables: Tables, read: RunStatement, write: RunStatement): Others {
  return {
    nodes: {
      all: () => read('nodes.all', () => [...tables.nodes.values()].map((node) => structuredClone(node))),
      revokedNames: () =>
        read('nodes.revokedNames', () => [...tables.nodes.values()].filter((n) => n.revoked).map((n) => n.name)),
      upsert: (node) => write('nodes.upsert', () => upsertNode(tables, node)),
      setDraining: (name, draining) => write('nodes.setDraining', () => changeNode(tables, name, { draining })),
      setRevoked: (name, revoked) => write('nodes.setRevoked', () => void changeNode(tables, name, { revoked })),
      remove: (name) =>
        write('nodes.remove', () => changeNode(tables, name, { removed: true, draining: false, revoked: false })),
      revokeUncertified: (names) =>
        write('nodes.revokeUncertified', () => {
          const uncertified = names.filter(
            (name) =>
              ![...tables.certificates.values()].some(
                (row) =>
                  row.role === 'agent' &&
                  row.name === name &&
                  row.revokedAtMs === undefined &&
                  row.notAfterMs > tables.now(),
              ),
          );
          for (const name of uncertified) changeNode(tables, name, { revoked: true });
          return uncertified;
        }),
      saveVitals: (rows) =>
        write('nodes.saveVitals', () => {
          for (const { seq, ...vitals } of rows) Object.assign(tables.nodes.get(seq) ?? {}, vitals);
        }),
    },
    leader: {
      read: () => read('leader.read', () => tables.leader && { ...tables.leader }),
      take: (seen, holder) => write('leader.take', () => take(tables, seen, holder)),
      renew: (epoch) => write('leader.renew', () => renew(tables, epoch)),
      release: (epoch) =>
        write('leader.release', () => {
          if (tables.leader?.epoch === epoch) tables.leader = { ...tables.leader, holder: '' };
        }),
    },
    coordinators: {
      announce: (row) =>
        write('coordinators.announce', () => void tables.coordinators.set(row.id, { ...row, seenAtMs: tables.now() })),
      list: (maxAgeMs) =>
        read('coordinators.list', () =>
          [...tables.coordinators.values()]
            .map(({ seenAtMs, ...row }) => ({
              ...row,
              ageMs: tables.now() - seenAtMs,
              leader: tables.leader?.holder === row.id,
            }))
            .filter((row) => row.ageMs <= maxAgeMs),
        ),
      withdraw: (id) => write('coordinators.withdraw', () => void tables.coordinators.delete(id)),
    },
    namespaces: namespaceStore(tables, read, write),
    certificates: certificateStore(tables, read, write),
    tokens: {
      create: (row) => write('tokens.create', () => void tables.tokens.set(row.id, { ...row })),
      list: () => read('tokens.list', () => [...tables.tokens.values()].map((row) => ({ ...row }))),
      revoke: (id) =>
        write('tokens.revoke', () => {
          for (const [digest, row] of tables.joinRequests) if (row.tokenId === id) tables.joinRequests.delete(digest);
          return tables.tokens.delete(id);
        }),
      get: (id) => read('tokens.get', () => tables.tokens.get(id)),
      spend: (id, publicKeyDigest, nowMs) =>
        write('tokens.spend', () => {
          const token = tables.tokens.get(id);
          const isRepeat = token?.spentBy?.includes(publicKeyDigest) === true;
          if (!token || (token.usesLeft === 0 && !isRepeat) || token.expiresAtMs <= nowMs) return false;
          if (isRepeat) return true;
          token.usesLeft--;
          token.spentBy = [...(token.spentBy ?? []), publicKeyDigest];
          return true;
        }),
      boughtWith: (id, digest) =>
        read('tokens.boughtWith', () =>
          [...tables.certificates.values()].find((row) => row.tokenId === id && row.publicKeyDigest === digest),
        ),
    },
    joinRequests: joinRequestStore(tables, read, write),
    blobs: {
      sizes: (digests) =>
        read('blobs.sizes', () => {
          const known = digests.flatMap((digest) => {
            const blob = tables.blobs.get(digest);
            return blob ? [[digest, blob.sizeBytes] as const] : [];
          });
          return new Map(known);
        }),
      record: (blobs) =>
        write('blobs.record', () => {
          for (const { digest, sizeBytes } of blobs) tables.blobs.set(digest, { sizeBytes, usedAtMs: tables.now() });
        }),
      unusedSince: (ms, limit) =>
        read('blobs.unusedSince', () =>
          [...tables.blobs].flatMap(([digest, blob]) => (blob.usedAtMs < ms ? [digest] : [])).slice(0, limit),
        ),
      use: (digests) =>
        write('blobs.use', () => {
          const known = digests.flatMap((digest) => {
            const blob = tables.blobs.get(digest);
            if (blob) blob.usedAtMs = tables.now();
            return blob ? [[digest, blob.sizeBytes] as const] : [];
          });
          return new Map(known);
        }),
      forget: (digests) =>
        write('blobs.forget', () => {
          for (const digest of digests) tables.blobs.delete(digest);
        }),
    },
    secrets: secretStore(tables, read, write),
    // Nobody reads it in a simulation.
    audit: {
      append: () => write('audit.append', () => CHAIN_START),
      from: () => read('audit.from', () => []),
      find: () => read('audit.find', () => []),
    },
    trust: {
      read: () => read('trust.read', () => tables.trust && { ...tables.trust }),
      claim: (root) =>
        write('trust.claim', () => {
          const alone = { nextRoot: undefined, nextRootEndorsement: undefined, startedAtMs: undefined };
          return { ...(tables.trust ??= { generation: 1, phase: 'steady', root, ...alone }) };
        }),
      change: (seen, next) =>
        write('trust.change', () => {
          if (tables.trust?.generation !== seen) return false;
          tables.trust = { ...next, generation: seen + 1 };
          return true;
        }),
    },
    settings: {
      release: (key) => write('settings.release', () => void tables.settings.delete(key)),
      get: (key) => read('settings.get', () => tables.settings.get(key)),
      claim: (key, value) =>
        write('settings.claim', () => {
          if (!tables.settings.has(key)) tables.settings.set(key, value);
          return tables.settings.get(key) as string;
        }),
    },
  };
}

function upsertNode(tables: Tables, given: Parameters<Store['nodes']['upsert']>[0]): NodeRow {
  const known = [...tables.nodes.values()].find((node) => node.name === given.name);
  const fresh = { reliability: 1, finished: 0, draining: false, revoked: false, lastHeartbeatAtMs: undefined };
  const row: NodeRow = known
    ? { ...known, ...given, id: known.id, removed: false }
    : { ...given, ...fresh, removed: false, seq: tables.nodes.size + 1 };
  tables.nodes.set(row.seq, structuredClone(row));
  return row;
}

function changeNode(tables: Tables, name: string, change: Partial<NodeRow>): NodeRow | undefined {
  const known = [...tables.nodes.values()].find((node) => node.name === name);
  return known && structuredClone(Object.assign(known, change));
}

function take(tables: Tables, seen: LeaderRow | undefined, holder: string): number | undefined {
  const { leader } = tables;
  const same =
    leader && seen
      ? leader.epoch === seen.epoch && leader.renewals === seen.renewals && leader.holder === seen.holder
      : leader === undefined && seen === undefined;
  if (!same) return undefined;
  const epoch = (leader?.epoch ?? 0) + 1;
  tables.leader = { epoch, holder, renewals: 0 };
  tables.observe({ kind: 'leader-elected', atMs: tables.now(), epoch, holder });
  return epoch;
}

function renew(tables: Tables, epoch: number): boolean {
  if (tables.leader?.epoch !== epoch) return false;
  tables.leader.renewals++;
  return true;
}

function secretStore(tables: Tables, read: RunStatement, write: RunStatement): SecretStore {
  const keyOf = ({ owner, name }: SecretRef) => `${owner} ${name}`;
  const toRow = (secret: SealedSecret & { setBy: string; setAtMs: number }): SecretRow => {
    const { owner, name, sizeBytes, isText, setBy, setAtMs } = secret;
    return { owner, name, sizeBytes, isText, setBy, setAtMs };
  };
  return {
    put: (secret, setBy, countMax) =>
      write('secrets.put', () => {
        const others = [...tables.secrets.values()].filter((s) => s.owner === secret.owner && s.name !== secret.name);
        if (others.length >= countMax) return undefined;
        const row = { ...secret, setBy, setAtMs: tables.now() };
        tables.secrets.set(keyOf(secret), row);
        return toRow(row);
      }),
    list: (owners) =>
      read('secrets.list', () =>
        [...tables.secrets.values()]
          .filter(({ owner }) => owners === undefined || owners.includes(owner))
          .sort((a, b) => (a.name === b.name ? (a.owner < b.owner ? -1 : 1) : a.name < b.name ? -1 : 1))
          .map(toRow),
      ),
    remove: (key) => write('secrets.remove', () => tables.secrets.delete(keyOf(key))),
    read: (keys) =>
      read('secrets.read', () =>
        [...new Set(keys.map(keyOf))].flatMap((key) => {
          const secret = tables.secrets.get(key);
          return secret ? [secret] : [];
        }),
      ),
  };
}

function certificateStore(tables: Tables, read: RunStatement, write: RunStatement): CertificateStore {
  const all = () => [...tables.certificates.values()];
  const holders = (role: string, name: string): CertificateRow[] =>
    all().filter(
      (row) => row.role === role && row.name === name && row.revokedAtMs === undefined && row.notAfterMs > tables.now(),
    );
  const revokedRows = (endAfterMs: number) =>
    all().filter((row) => row.revokedAtMs !== undefined && row.notAfterMs > endAfterMs);
  return {
    record: (row, { sameHolder }) =>
      write('certificates.record', () => {
        const taken = holders(row.role, row.name).some((other) => other.publicKeyDigest !== row.publicKeyDigest);
        if (taken && !sameHolder && row.revokedAtMs === undefined)
          throw new MeshError('CONFLICT', `${row.role} ${row.name} has a certificate already`);
        tables.certificates.set(row.serial, { ...row });
      }),
    list: () => read('certificates.list', all),
    get: (serial) => read('certificates.get', () => tables.certificates.get(serial)),
    latest: (role, name) =>
      read('certificates.latest', () => all().findLast((row) => row.role === role && row.name === name)),
    current: () =>
      read('certificates.current', () => {
        const latest = new Map(all().map((row) => [`${row.role}/${row.name}`, row]));
        return [...latest.values()].filter((row) => row.revokedAtMs === undefined && row.notAfterMs > tables.now());
      }),
    holders: (role, name) => read('certificates.holders', () => holders(role, name)),
    revoke: (nameOrSerial) =>
      write('certificates.revoke', () => {
        const rows = all().filter(
          (row) =>
            (row.serial === nameOrSerial || (row.name === nameOrSerial && !tables.certificates.has(nameOrSerial))) &&
            row.revokedAtMs === undefined,
        );
        for (const row of rows) row.revokedAtMs = tables.now();
        return rows;
      }),
    revoked: () => read('certificates.revoked', () => revokedRows(tables.now())),
    revokedRows: (endAfterMs) => read('certificates.revokedRows', () => revokedRows(endAfterMs)),
  };
}

function joinRequestStore(tables: Tables, read: RunStatement, write: RunStatement): JoinRequestStore {
  const { joinRequests } = tables;
  const isOld = (row: { expiresAtMs: number }) => row.expiresAtMs <= tables.now();
  const waiting = () => [...joinRequests.values()].filter((row) => row.refusedBy === undefined && !isOld(row));
  return {
    waiting: () => read('joinRequests.waiting', waiting),
    get: (tokenId, digest) =>
      read('joinRequests.get', () => {
        const row = joinRequests.get(digest);
        return row?.tokenId === tokenId && !isOld(row) ? { ...row } : undefined;
      }),
    record: (row) =>
      write('joinRequests.record', () => {
        for (const [digest, old] of joinRequests)
          if (isOld(old) || (digest === row.publicKeyDigest && old.tokenId !== row.tokenId))
            joinRequests.delete(digest);
        if (joinRequests.has(row.publicKeyDigest)) return true;
        if (waiting().some((other) => other.name === row.name)) return false;
        joinRequests.set(row.publicKeyDigest, { ...row });
        return true;
      }),
    refuse: (digest, actor, expiresAtMs) =>
      write('joinRequests.refuse', () => {
        const row = waiting().find(({ publicKeyDigest }) => publicKeyDigest === digest);
        if (row) joinRequests.set(digest, { ...row, refusedBy: actor, expiresAtMs });
        return row !== undefined;
      }),
    forget: (digest) => write('joinRequests.forget', () => void joinRequests.delete(digest)),
  };
}
