-- Of each certificate: how long it was asked to live for, where that was asked; which root its chain leads to; and which
-- roots were handed out with it. Unknown for those that are older than this.
alter table certificate
  add column lifetime_ms bigint,
  add column root text,
  add column trusts text[],
  add constraint certificate_lifetime check (lifetime_ms > 0);

create or replace function record_certificate(given certificate, same_holder boolean, at timestamptz)
returns boolean language plpgsql as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('certificate/' || given.role || '/' || given.name, 0));
  if given.revoked_at is null and not same_holder and exists (
    select from certificate c
    where c.role = given.role and c.name = given.name and c.not_after > at and c.revoked_at is null
      and c.public_key_digest <> given.public_key_digest
  ) then
    return false;
  end if;
  insert into certificate
    (serial, role, name, fingerprint, public_key_digest, not_before, not_after, revoked_at, token_id, pem, lifetime_ms,
     root, trusts)
  values
    (given.serial, given.role, given.name, given.fingerprint, given.public_key_digest, given.not_before,
     given.not_after, given.revoked_at, given.token_id, given.pem, given.lifetime_ms, given.root, given.trusts)
  on conflict (serial) do nothing;
  return true;
end
$$;

-- Which root the mesh stands on, and which one takes over; one row. Generations count the steps of rotations.
create table trust (
  id smallint not null default 1 primary key,
  generation bigint not null default 1,
  phase text not null default 'steady',
  root text not null,
  next_root text,
  -- What the key of the present root says of the next one: who can write here alone brings in no root of theirs.
  next_root_endorsement text,
  started_at timestamptz,
  constraint trust_single check (id = 1),
  constraint trust_generation check (generation >= 1),
  constraint trust_phase check (phase in ('steady', 'spreading', 'moving')),
  constraint trust_next check (
    (phase = 'steady') = (next_root is null) and (next_root is null) = (started_at is null)
    and (next_root is null) = (next_root_endorsement is null)
  )
) with (fillfactor = 50);

-- The step that a coordinator has taken.
alter table coordinator add column trust_generation bigint not null default 0;
