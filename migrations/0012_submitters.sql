-- Whose a job is says the role, too, unless that is submitter: a submitter called like an operator saw the operator's jobs.
-- Names that both roles have had are left to the submitter, who could see these jobs before.
update job set submitter = 'operator/' || submitter
where position('/' in submitter) = 0
  and exists (select from certificate c where c.role = 'operator' and c.name = submitter)
  and not exists (select from certificate c where c.role = 'submitter' and c.name = submitter);
