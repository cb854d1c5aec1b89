-- Machines that wait for an operator's approval, and those that were refused. An approved one is a certificate. What is
-- approved is the key of the request; the name is only how it is spoken of. Revoking the token ends what came with it.
create table join_request (
  public_key_digest text primary key,
  token_id text not null references join_token (id) on delete cascade,
  name text not null,
  csr bytea not null,
  address text not null,
  requested_at timestamptz not null,
  expires_at timestamptz not null,
  refused_by text,
  constraint join_request_digest check (public_key_digest ~ '^[0-9a-f]{64}$'),
  constraint join_request_expiry check (expires_at > requested_at)
);
create unique index join_request_waiting on join_request (name) where refused_by is null;
create index join_request_token on join_request (token_id);
-- Forgotten by an operator. The row stays, because what ran there is told by its name.
alter table node add column removed boolean not null default false;
