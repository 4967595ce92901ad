-- For the refunds of a channel within the last hour; see sql/own/refunded.sql.
CREATE INDEX ledger_refunds ON poller.ledger (channel_id, settled_at) INCLUDE (refunded)
    WHERE rule IN ('failed_word', 'not_found_confirmed', 'expired');
