-- The bytes of staged files, for meshes whose coordinators share a database and not a disk. Parts are written before the
-- row of the file, the first of them last: where it is, all are. Those of an upload that was broken off go by their age.
create table blob_content (
  digest text not null,
  part integer not null,
  bytes bytea not null,
  created_at timestamptz not null default now(),
  primary key (digest, part),
  constraint blob_content_digest check (digest ~ '^[0-9a-f]{64}$'),
  constraint blob_content_ranges check (part >= 0 and octet_length(bytes) <= 1048576)
);
create index blob_content_created on blob_content (created_at);
-- Files are mostly compressed already.
alter table blob_content alter column bytes set storage external;
