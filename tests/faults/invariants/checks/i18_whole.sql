-- Balances are whole: no counter of ours ever moved by a fraction or beyond what is representable.
SELECT row_id AS id, delta::text AS now, 'whole' AS want
FROM inv.money WHERE app LIKE 'poller%' AND (delta <> trunc(delta) OR abs(delta) >= 2::numeric ^ 53)
