-- operator_act: what a person does by hand.
-- $1 text who   $2 text action   $3 bigint pk of the task, or NULL   $4 text detail
-- locks: none   returns: nothing
INSERT INTO poller.operator_action (who, action, task_pk, detail)
VALUES (concat($1::text, ' as ', session_user), $2::text, $3::bigint, $4::text)
