-- The same chain in less time: what an entry adds to its hash is put together as one text, and all entries of a call are one
-- insert, in which an aggregate runs along the chain. common/audit-chain.ts makes the same hashes.
create function audit_field(field text) returns text language sql stable parallel safe
return octet_length(convert_to(field, 'UTF8')) || ':' || field || ',';

create function audit_body(
  seq bigint, at timestamptz, actor text, address text, certificate text, action text, target text, detail text
) returns text language sql stable parallel safe
return audit_field(seq::text) || audit_field((extract(epoch from at) * 1000000)::bigint::text) || audit_field(actor)
  || audit_field(address) || audit_field(certificate) || audit_field(action) || audit_field(target)
  || audit_field(detail);

create function audit_link(hash bytea, first bytea, body text) returns bytea language sql stable parallel safe
return sha256(coalesce(hash, first) || convert_to(body, 'UTF8'));

-- The hash after each of successive entries; `first` is the one before all of them.
create aggregate audit_links(first bytea, body text) (sfunc = audit_link, stype = bytea);

-- Appends entries, a JSON array, at the end of the chain and returns the new head. In PL/pgSQL because the end must be
-- read after the lock was waited for: each statement of a volatile function takes a fresh snapshot.
-- With `again`, the answer to an earlier call was lost: what it wrote is not written a second time. Entries of this call
-- do not count: several of one moment may be alike.
create or replace function append_audit(entries jsonb, again boolean) returns table (head_seq bigint, head_hash bytea)
language plpgsql volatile as $$
declare
  last record;
begin
  perform pg_advisory_xact_lock(hashtextextended('audit', 0));
  select seq, hash into head_seq, head_hash from audit order by seq desc limit 1;
  if head_seq is null then
    head_seq := 0;
    head_hash := decode(repeat('00', 32), 'hex');
  end if;
  with given as (
    select head_seq + row_number() over (order by position) as seq,
      timestamptz 'epoch' + e.at_us * interval '1 microsecond' as at, e.*
    from rows from (
      jsonb_to_recordset(entries) as (
        at_us bigint, actor text, address text, certificate text, action text, target text, detail text
      )
    ) with ordinality as e(at_us, actor, address, certificate, action, target, detail, position)
    where not again or not exists (
      select from audit a
      where a.at = timestamptz 'epoch' + e.at_us * interval '1 microsecond' and a.actor = e.actor
        and a.address = e.address and a.certificate = e.certificate and a.action = e.action and a.target = e.target
        and a.detail = e.detail
    )
  ), hashed as (
    select *, audit_links(head_hash, audit_body(seq, at, actor, address, certificate, action, target, detail))
      over (order by seq rows unbounded preceding) as hash
    from given
  ), appended as (
    insert into audit (seq, at, actor, address, certificate, action, target, detail, previous, hash)
    select seq, at, actor, address, certificate, action, target, detail,
      lag(hash, 1, head_hash) over (order by seq), hash
    from hashed
    returning audit.seq, audit.hash
  )
  select a.seq, a.hash into last from appended a order by a.seq desc limit 1;
  if found then
    head_seq := last.seq;
    head_hash := last.hash;
  end if;
  return next;
end
$$;

drop function audit_hash(bytea, bigint, timestamptz, text, text, text, text, text, text);
