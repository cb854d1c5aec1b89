import { type Selectable, sql } from 'kysely';
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { CertificateRow, CertificateStore } from '../ports.js';
import type { Database } from './database.js';
import type { CertificateTable } from './schema.js';

export const toCertificateRow = (row: Selectable<CertificateTable>): CertificateRow => ({
  serial: row.serial,
  role: row.role,
  name: row.name,
  fingerprint: row.fingerprint,
  publicKeyDigest: row.public_key_digest,
  notBeforeMs: row.not_before,
  notAfterMs: row.not_after,
  revokedAtMs: row.revoked_at ?? undefined,
  tokenId: row.token_id ?? undefined,
  pem: row.pem,
  ...(row.lifetime_ms === null ? {} : { lifetimeMs: row.lifetime_ms }),
  ...chainOf(row),
});

const chainOf = ({ root, trusts }: Pick<Selectable<CertificateTable>, 'root' | 'trusts'>) => ({
  ...(root === null ? {} : { root }),
  ...(trusts === null ? {} : { trusts }),
});

/** Validity is compared with the coordinator's wall clock, which also stamped it. */
export const certificateStore = (database: Database, clock: Clock): CertificateStore => ({
  record: async (row, options) => {
    const given = {
      serial: row.serial,
      role: row.role,
      name: row.name,
      fingerprint: row.fingerprint,
      public_key_digest: row.publicKeyDigest,
      not_before: new Date(row.notBeforeMs).toISOString(),
      not_after: new Date(row.notAfterMs).toISOString(),
      revoked_at: row.revokedAtMs === undefined ? null : new Date(row.revokedAtMs).toISOString(),
      token_id: row.tokenId ?? null,
      pem: row.pem,
      lifetime_ms: row.lifetimeMs ?? null,
      root: row.root ?? null,
      trusts: row.trusts ?? null,
    };
    const { rows } = await database.run((db) =>
      sql<{ recorded: boolean }>`
        select record_certificate(
          jsonb_populate_record(null::certificate, ${given}::jsonb), ${options.sameHolder}::boolean,
          ${clock.wallMs()}::timestamptz
        ) as recorded`.execute(db),
    );
    if (!rows[0]?.recorded)
      throw new MeshError('CONFLICT', `the name ${row.name} is held by another ${row.role} of this mesh`, {
        hint: 'choose another name, or revoke the certificate that holds it',
      });
  },
  list: async () => {
    const rows = await database.run((db) =>
      db.selectFrom('certificate').selectAll().orderBy('not_before').orderBy('serial').execute(),
    );
    return rows.map(toCertificateRow);
  },
  get: async (serial) => {
    const row = await database.run((db) =>
      db.selectFrom('certificate').selectAll().where('serial', '=', serial).executeTakeFirst(),
    );
    return row && toCertificateRow(row);
  },
  latest: async (role, name) => {
    const row = await database.run((db) =>
      db
        .selectFrom('certificate')
        .selectAll()
        .where('role', '=', role)
        .where('name', '=', name)
        .orderBy('created_at', 'desc')
        .orderBy('not_before', 'desc')
        .limit(1)
        .executeTakeFirst(),
    );
    return row && toCertificateRow(row);
  },
  current: async () => {
    const rows = await database.run((db) =>
      db
        .selectFrom('certificate')
        .distinctOn(['role', 'name'])
        .select(['serial', 'role', 'name', 'not_after', 'root', 'trusts'])
        .where('revoked_at', 'is', null)
        .where('not_after', '>', clock.wallMs())
        .orderBy('role')
        .orderBy('name')
        .orderBy('created_at', 'desc')
        .orderBy('not_before', 'desc')
        .execute(),
    );
    return rows.map(({ serial, role, name, not_after: notAfterMs, ...chain }) => ({
      ...{ serial, role, name, notAfterMs },
      ...chainOf(chain),
    }));
  },
  holders: async (role, name) => {
    const rows = await database.run((db) =>
      db
        .selectFrom('certificate')
        .selectAll()
        .where('role', '=', role)
        .where('name', '=', name)
        .where('not_after', '>', clock.wallMs())
        .where('revoked_at', 'is', null)
        .orderBy('not_after')
        .execute(),
    );
    return rows.map(toCertificateRow);
  },
  revoke: async (nameOrSerial) => {
    const rows = await database.run((db) =>
      db
        .updateTable('certificate')
        .set({ revoked_at: clock.wallMs() })
        // A serial means that certificate alone: nobody is revoked along with it who is called like it.
        .where((e) =>
          e.or([
            e('serial', '=', nameOrSerial),
            e.and([
              e('name', '=', nameOrSerial),
              e.not(
                e.exists(db.selectFrom('certificate as named').select('serial').where('serial', '=', nameOrSerial)),
              ),
            ]),
          ]),
        )
        .where('revoked_at', 'is', null)
        .returningAll()
        .execute(),
    );
    return rows.map(toCertificateRow);
  },
  revoked: () =>
    database.run((db) =>
      db
        .selectFrom('certificate')
        .select(['serial', 'role', 'name', 'not_after as notAfterMs'])
        .where('revoked_at', 'is not', null)
        .where('not_after', '>', clock.wallMs())
        .execute(),
    ),
  revokedRows: async (endAfterMs) => {
    const rows = await database.run((db) =>
      db
        .selectFrom('certificate')
        .selectAll()
        .where('revoked_at', 'is not', null)
        .where('not_after', '>', endAfterMs)
        .orderBy('revoked_at')
        .orderBy('serial')
        .execute(),
    );
    return rows.map(toCertificateRow);
  },
});
