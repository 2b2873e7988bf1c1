-- What a counter needs beside its total: quantities reserved, credits used, rests carried over, thresholds once a period.
ALTER TABLE usage_counters ADD COLUMN reserved_quantity BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE usage_counters ADD COLUMN reserve_expire_time TIMESTAMP WITH TIME ZONE;
ALTER TABLE usage_counters ADD COLUMN peak_quantity BIGINT;
ALTER TABLE usage_counters ADD COLUMN credited_quantity BIGINT DEFAULT 0 NOT NULL;
ALTER TABLE usage_counters ADD COLUMN rolled_in_quantity BIGINT;
ALTER TABLE usage_counters ADD COLUMN rolled_out_quantity BIGINT DEFAULT 0 NOT NULL;
COMMENT ON COLUMN usage_counters.reserved_quantity IS 'sum of the reservations that are held';
COMMENT ON COLUMN usage_counters.reserve_expire_time IS 'no reservation that is held expires earlier; null when none is held';
COMMENT ON COLUMN usage_counters.peak_quantity IS 'highest total of the period; null while it is the present one';
COMMENT ON COLUMN usage_counters.credited_quantity IS 'part of the total that credits paid for';
COMMENT ON COLUMN usage_counters.rolled_in_quantity IS 'rest of the period before that came over; null while not computed';
COMMENT ON COLUMN usage_counters.rolled_out_quantity IS 'rest that went into the next period';

ALTER TABLE usage_entries ADD COLUMN kind SMALLINT DEFAULT 1 NOT NULL;
ALTER TABLE usage_entries ADD COLUMN plan_key TEXT;
ALTER TABLE usage_entries ADD COLUMN reservation_id TEXT;
ALTER TABLE usage_entries ADD COLUMN reversed_entry_id BIGINT;
ALTER TABLE usage_entries ADD COLUMN reason_text TEXT;
ALTER TABLE usage_entries ADD COLUMN actor TEXT;
ALTER TABLE usage_entries ADD COLUMN credits JSONB;
-- Without a default at first: rows of the release before keep none, and no table is rewritten.
ALTER TABLE usage_entries ADD COLUMN commit_xid BIGINT;
ALTER TABLE usage_entries ALTER COLUMN commit_xid SET DEFAULT pg_current_xact_id()::text::bigint;
COMMENT ON COLUMN usage_entries.kind IS 'usage.EntryKind';
COMMENT ON COLUMN usage_entries.credits IS 'credits that paid: [[grant_id, window start in ISO 8601, quantity], ...]';
COMMENT ON COLUMN usage_entries.commit_xid IS 'transaction that wrote it: what rollups go by; null for rows of the first releases';

ALTER TABLE usage_requests ADD COLUMN answer JSONB;
COMMENT ON COLUMN usage_requests.answer IS 'rest of the first answer, where the other columns do not say it all';

CREATE TABLE reservations (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    reservation_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    period_kind TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end TIMESTAMP WITH TIME ZONE,
    state TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    overrun_policy TEXT NOT NULL,
    dimensions JSONB,
    request_id TEXT,
    event_time TIMESTAMP WITH TIME ZONE,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
    close_time TIMESTAMP WITH TIME ZONE,
    committed_quantity BIGINT DEFAULT 0 NOT NULL,
    entry_id BIGINT,
    answer JSONB,
    CONSTRAINT pk_reservations PRIMARY KEY (tenant_id, account_id, reservation_id),
    CONSTRAINT ck_reservations_state_known CHECK (state IN ('held', 'committed', 'released', 'expired')),
    CONSTRAINT ck_reservations_quantity_positive CHECK (quantity > 0)
);
CREATE INDEX ix_reservations_held
    ON reservations (tenant_id, account_id, feature_key, period_kind, period_start, expire_time) WHERE state = 'held';
CREATE INDEX ix_reservations_due ON reservations (expire_time) WHERE state = 'held';
CREATE INDEX ix_reservations_close_time ON reservations USING brin (close_time);
COMMENT ON COLUMN reservations.state IS 'held, committed, released or expired';
COMMENT ON COLUMN reservations.overrun_policy IS 'reject or overdraw';
COMMENT ON COLUMN reservations.answer IS 'first answer to its commit, for those who ask again';

-- The group commit and the exact commit write events of thresholds in their own transaction.
CREATE POLICY every_tenant ON reservations FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON reservations TO tallygate_meter;
GRANT SELECT ON reservations TO tallygate_app;
CREATE POLICY every_tenant ON outbox_events FOR INSERT TO tallygate_meter WITH CHECK (true);
GRANT INSERT (tenant_id, type, account_id, revision, payload, create_time) ON outbox_events TO tallygate_meter;
