-- Values that tasks are given, encrypted with a key that is not in the database: `sealed` is nonce, ciphertext and tag of
-- AES-256-GCM, bound to owner, name and revision, so that no row can be passed off as another.
create table secret (
  owner text not null,
  name text not null,
  revision text not null,
  key_id text not null,
  sealed bytea not null,
  size_bytes integer not null,
  is_text boolean not null,
  set_by text not null,
  set_at timestamptz not null default now(),
  primary key (owner, name),
  constraint secret_name check (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$'),
  constraint secret_owner check (owner ~ '^(everyone|(operator|submitter)/[a-z0-9-]{1,63})$'),
  constraint secret_size check (size_bytes between 1 and 65536 and octet_length(sealed) = size_bytes + 28)
);
