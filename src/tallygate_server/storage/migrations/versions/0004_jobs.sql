-- Long work on data, and what storage held day by day.
CREATE TABLE lifecycle_jobs (
    tenant_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    account_id TEXT DEFAULT '' NOT NULL,
    kind SMALLINT NOT NULL,
    state SMALLINT NOT NULL,
    validate_only BOOLEAN DEFAULT false NOT NULL,
    request JSONB NOT NULL,
    progress JSONB DEFAULT '{}'::jsonb NOT NULL,
    checkpoint JSONB DEFAULT '{}'::jsonb NOT NULL,
    result JSONB,
    error JSONB,
    actor TEXT NOT NULL,
    request_id TEXT DEFAULT '' NOT NULL,
    fingerprint TEXT DEFAULT '' NOT NULL,
    attempt_count INTEGER DEFAULT 0 NOT NULL,
    crash_count INTEGER DEFAULT 0 NOT NULL,
    cancel_requested BOOLEAN DEFAULT false NOT NULL,
    runner_id TEXT DEFAULT '' NOT NULL,
    lease_time TIMESTAMP WITH TIME ZONE,
    schedule_time TIMESTAMP WITH TIME ZONE,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE,
    end_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_lifecycle_jobs PRIMARY KEY (tenant_id, job_id)
);
CREATE UNIQUE INDEX uq_lifecycle_jobs_request ON lifecycle_jobs (tenant_id, kind, request_id) WHERE request_id <> '';
CREATE INDEX ix_lifecycle_jobs_open ON lifecycle_jobs (tenant_id, state, create_time) WHERE state IN (1, 2);
CREATE INDEX ix_lifecycle_jobs_account ON lifecycle_jobs (tenant_id, account_id);
COMMENT ON COLUMN lifecycle_jobs.request IS 'what was asked for, as the kind''s handler reads it';
COMMENT ON COLUMN lifecycle_jobs.checkpoint IS 'where to go on after a crash, as the kind''s handler wrote it';
COMMENT ON COLUMN lifecycle_jobs.crash_count IS 'attempts in a row that ended without a word and got no further';
COMMENT ON COLUMN lifecycle_jobs.lease_time IS 'whoever runs it must renew before; afterwards another takes over';

CREATE TABLE storage_days (
    tenant_id TEXT NOT NULL,
    day DATE NOT NULL,
    data_type TEXT NOT NULL,
    tier SMALLINT NOT NULL,
    record_count BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    original_bytes BIGINT NOT NULL,
    CONSTRAINT pk_storage_days PRIMARY KEY (tenant_id, day, data_type, tier)
);

CREATE TABLE storage_removals (
    tenant_id TEXT NOT NULL,
    day DATE NOT NULL,
    data_type TEXT NOT NULL,
    record_count BIGINT NOT NULL,
    removed_bytes BIGINT NOT NULL,
    CONSTRAINT pk_storage_removals PRIMARY KEY (tenant_id, day, data_type)
);
COMMENT ON COLUMN storage_removals.removed_bytes IS 'that the removed segments took';
