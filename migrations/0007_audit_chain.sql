-- Who did what to what, from where, with which certificate, as a chain: each entry carries the hash of the one before it
-- and a hash over itself, so that none can be changed or dropped without all that follow showing it (docs/security.md,
-- "Audit"). What was there before is taken into the chain in its order.

alter table audit
  alter column seq drop identity,
  alter column at drop default,
  alter column detail type text using detail::text,
  add column address text not null default '',
  add column certificate text not null default '',
  add column previous bytea not null default '',
  add column hash bytea not null default '';

-- Each field as its length in bytes, a colon, itself and a comma; the time in microseconds since 1970.
-- common/audit-chain.ts does the same.
create function audit_hash(
  previous bytea, seq bigint, at timestamptz, actor text, address text, certificate text, action text, target text,
  detail text
) returns bytea language sql stable parallel safe as $$
  select sha256(previous || string_agg(
    convert_to(octet_length(field) || ':', 'UTF8') || field || convert_to(',', 'UTF8'), ''::bytea order by position
  ))
  from unnest(array[
    convert_to(seq::text, 'UTF8'), convert_to((extract(epoch from at) * 1000000)::bigint::text, 'UTF8'),
    convert_to(actor, 'UTF8'), convert_to(address, 'UTF8'), convert_to(certificate, 'UTF8'),
    convert_to(action, 'UTF8'), convert_to(target, 'UTF8'), convert_to(detail, 'UTF8')
  ]) with ordinality as fields(field, position)
$$;

do $$
declare
  last_seq bigint := 0;
  last_hash bytea := decode(repeat('00', 32), 'hex');
  entry audit;
  entry_hash bytea;
begin
  for entry in select * from audit order by seq loop
    last_seq := last_seq + 1;
    entry_hash := audit_hash(
      last_hash, last_seq, entry.at, entry.actor, '', '', entry.action, entry.target, entry.detail
    );
    update audit set seq = last_seq, previous = last_hash, hash = entry_hash where seq = entry.seq;
    last_hash := entry_hash;
  end loop;
end
$$;

alter table audit
  alter column address drop default,
  alter column certificate drop default,
  alter column previous drop default,
  alter column hash drop default,
  add constraint audit_chain check (seq >= 1 and octet_length(previous) = 32 and octet_length(hash) = 32),
  add constraint audit_text check (octet_length(actor) + octet_length(target) + octet_length(detail) <= 65536);

-- Appends entries, a JSON array, at the end of the chain and returns the new head. In PL/pgSQL because the end must be
-- read after the lock was waited for: each statement of a volatile function takes a fresh snapshot.
-- With `again`, the answer to an earlier call was lost: what it wrote is not written a second time. Entries of this call
-- do not count: several of one moment may be alike.
create function append_audit(entries jsonb, again boolean) returns table (head_seq bigint, head_hash bytea)
language plpgsql volatile as $$
declare
  entry record;
  previous_hash bytea;
  known_seq bigint;
begin
  perform pg_advisory_xact_lock(hashtextextended('audit', 0));
  select seq, hash into head_seq, head_hash from audit order by seq desc limit 1;
  if head_seq is null then
    head_seq := 0;
    head_hash := decode(repeat('00', 32), 'hex');
  end if;
  known_seq := head_seq;
  for entry in
    select timestamptz 'epoch' + e.at_us * interval '1 microsecond' as at,
      e.actor, e.address, e.certificate, e.action, e.target, e.detail
    from jsonb_to_recordset(entries) as e(
      at_us bigint, actor text, address text, certificate text, action text, target text, detail text
    )
  loop
    continue when again and exists (
      select from audit a
      where a.at = entry.at and a.actor = entry.actor and a.address = entry.address
        and a.certificate = entry.certificate and a.action = entry.action and a.target = entry.target
        and a.detail = entry.detail and a.seq <= known_seq
    );
    previous_hash := head_hash;
    head_seq := head_seq + 1;
    head_hash := audit_hash(
      previous_hash, head_seq, entry.at, entry.actor, entry.address, entry.certificate, entry.action, entry.target,
      entry.detail
    );
    insert into audit (seq, at, actor, address, certificate, action, target, detail, previous, hash)
    values (head_seq, entry.at, entry.actor, entry.address, entry.certificate, entry.action, entry.target,
      entry.detail, previous_hash, head_hash);
  end loop;
  return next;
end
$$;

-- Against mistakes. Who may alter the table can drop the trigger; against that there is the chain.
create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% refused: table % is append-only', tg_op, tg_table_name using errcode = 'insufficient_privilege';
end
$$;
create trigger audit_append_only before update or delete or truncate on audit
  for each statement execute function refuse_change();
