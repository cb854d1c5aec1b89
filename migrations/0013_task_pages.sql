-- A task's row is written twice, by its assignment and by its completion, each time all rows of a page at about the same moment. The
-- second version is the longer one; with that much room left it stays on its page and touches no index.
alter table task set (
  fillfactor = 40,
  -- Rows come and go with their jobs: the vacuum after they went is enough, one for those that came is one for nothing.
  autovacuum_vacuum_insert_scale_factor = 2,
  -- Every task counts three times here (made, completed, deleted), and no plan depends on how many there are.
  autovacuum_analyze_scale_factor = 1
);
