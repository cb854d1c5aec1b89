-- Who serves this mesh, leading or standing by: each coordinator keeps its own row, so that all of them can tell agents
-- and people where the others are. The id is the holder in the leader's row.
create table coordinator (
  id text primary key,
  name text not null,
  addresses text[] not null,
  version text not null,
  seen_at timestamptz not null default now(),
  constraint coordinator_id check (id <> '')
) with (fillfactor = 50);
