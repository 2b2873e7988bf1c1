-- Records under lifecycle management. Nothing in these tables is readable without the account's key but times, sizes
-- and names of columns: what somebody measured stands in sealed payloads only, so that destroying the key is enough.
CREATE TABLE data_keys (
    tenant_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    state SMALLINT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    retire_time TIMESTAMP WITH TIME ZONE,
    destroy_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_data_keys PRIMARY KEY (tenant_id, key_id)
);
CREATE UNIQUE INDEX uq_data_keys_active ON data_keys (tenant_id, account_id) WHERE state = 1;
CREATE INDEX ix_data_keys_account ON data_keys (tenant_id, account_id);
COMMENT ON COLUMN data_keys.account_id IS 'empty for the tenant''s own key';
COMMENT ON COLUMN data_keys.state IS '1 active, 2 retired (still opens), 3 destroyed';

CREATE TABLE datasets (
    tenant_id TEXT NOT NULL,
    dataset_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    data_type TEXT NOT NULL,
    shape SMALLINT NOT NULL,
    columns JSONB DEFAULT '[]'::jsonb NOT NULL,
    has_record_ids BOOLEAN DEFAULT false NOT NULL,
    next_sequence BIGINT DEFAULT 1 NOT NULL,
    quality_sum DOUBLE PRECISION DEFAULT 0 NOT NULL,
    quality_weight DOUBLE PRECISION DEFAULT 0 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE NOT NULL,
    access_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_datasets PRIMARY KEY (tenant_id, dataset_id)
);
CREATE UNIQUE INDEX uq_datasets_account_type ON datasets (tenant_id, account_id, data_type);
COMMENT ON COLUMN datasets.next_sequence IS 'number of the next record; records with an id carry theirs';
COMMENT ON COLUMN datasets.quality_sum IS 'sum of the batches'' scores, each times its records';
COMMENT ON COLUMN datasets.quality_weight IS 'records in these batches';

CREATE TABLE data_segments (
    tenant_id TEXT NOT NULL,
    segment_id TEXT NOT NULL,
    dataset_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    data_type TEXT NOT NULL,
    tier SMALLINT NOT NULL,
    form SMALLINT NOT NULL,
    state SMALLINT NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    end_time TIMESTAMP WITH TIME ZONE NOT NULL,
    record_count BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    original_bytes BIGINT NOT NULL,
    checksum BYTEA NOT NULL,
    values_digest BYTEA NOT NULL,
    key_id TEXT NOT NULL,
    object_path TEXT DEFAULT '' NOT NULL,
    codecs JSONB DEFAULT '{}'::jsonb NOT NULL,
    facts BYTEA DEFAULT '\x'::bytea NOT NULL,
    quality_score DOUBLE PRECISION DEFAULT 1 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    retention_end_time TIMESTAMP WITH TIME ZONE,
    stay_end_time TIMESTAMP WITH TIME ZONE,
    quarantine_reason TEXT DEFAULT '' NOT NULL,
    CONSTRAINT pk_data_segments PRIMARY KEY (tenant_id, segment_id),
    CONSTRAINT ck_data_segments_span_not_empty CHECK (start_time < end_time)
);
CREATE INDEX ix_data_segments_dataset ON data_segments (tenant_id, dataset_id, start_time);
-- Every put sums its dataset and account up: from this index alone, for the rows themselves are wide.
CREATE INDEX ix_data_segments_sums ON data_segments (tenant_id, account_id, dataset_id, state, tier)
    INCLUDE (record_count, stored_bytes, original_bytes, start_time, end_time);
CREATE INDEX ix_data_segments_age ON data_segments (tenant_id, tier, end_time);
COMMENT ON COLUMN data_segments.end_time IS 'the microsecond after its last record';
COMMENT ON COLUMN data_segments.checksum IS 'SHA-256 of the sealed payload';
COMMENT ON COLUMN data_segments.values_digest IS 'of the records it stands for, the same in every lossless form';
COMMENT ON COLUMN data_segments.facts IS 'sealed: statistics by column, and what a lossy form keeps';
COMMENT ON COLUMN data_segments.retention_end_time IS 'set by hand when it was archived; none: the policy decides';
COMMENT ON COLUMN data_segments.stay_end_time IS 'a restored segment stays where it is until then';

CREATE TABLE data_payloads (
    tenant_id TEXT NOT NULL,
    segment_id TEXT NOT NULL,
    payload BYTEA NOT NULL,
    CONSTRAINT pk_data_payloads PRIMARY KEY (tenant_id, segment_id)
);
-- Sealed bytes do not compress.
ALTER TABLE data_payloads ALTER COLUMN payload SET STORAGE EXTERNAL;
COMMENT ON TABLE data_payloads IS 'sealed payloads of hot and warm segments; those of cold ones are objects';

CREATE TABLE stored_objects (
    tenant_id TEXT NOT NULL,
    object_path TEXT NOT NULL,
    kind TEXT NOT NULL,
    state SMALLINT NOT NULL,
    stored_bytes BIGINT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    leave_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_stored_objects PRIMARY KEY (tenant_id, object_path)
);
CREATE INDEX ix_stored_objects_unsettled ON stored_objects (tenant_id, create_time) WHERE state <> 2;
COMMENT ON COLUMN stored_objects.kind IS 'segment or export';
COMMENT ON COLUMN stored_objects.state IS '1 being written, 2 live, 3 leaving';

CREATE TABLE data_record_ids (
    tenant_id TEXT NOT NULL,
    dataset_id TEXT NOT NULL,
    id_digest BYTEA NOT NULL,
    sequence BIGINT NOT NULL,
    CONSTRAINT pk_data_record_ids PRIMARY KEY (tenant_id, dataset_id, id_digest)
);
COMMENT ON COLUMN data_record_ids.id_digest IS 'of the record''s id, keyed with the account''s key';

CREATE TABLE data_replaced_records (
    tenant_id TEXT NOT NULL,
    dataset_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    CONSTRAINT pk_data_replaced_records PRIMARY KEY (tenant_id, dataset_id, sequence)
);
COMMENT ON TABLE data_replaced_records IS 'records whose place another with the same id took; queries leave them out';

CREATE TABLE data_segment_reads (
    tenant_id TEXT NOT NULL,
    segment_id TEXT NOT NULL,
    day DATE NOT NULL,
    read_count BIGINT NOT NULL,
    CONSTRAINT pk_data_segment_reads PRIMARY KEY (tenant_id, segment_id, day)
);

CREATE TABLE data_requests (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    call TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    answer JSONB NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_data_requests PRIMARY KEY (tenant_id, account_id, request_id)
);
CREATE INDEX ix_data_requests_age ON data_requests (tenant_id, create_time);
