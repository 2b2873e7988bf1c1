-- What data is worth, and plans made from it.
CREATE TABLE value_weights (
    tenant_id TEXT NOT NULL,
    model_key TEXT NOT NULL,
    data_type TEXT NOT NULL,
    weights JSONB NOT NULL,
    accuracy DOUBLE PRECISION NOT NULL,
    measure_time TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_value_weights PRIMARY KEY (tenant_id, model_key, data_type)
);

CREATE TABLE data_plans (
    tenant_id TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    plan JSONB NOT NULL,
    actor TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
    done_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_data_plans PRIMARY KEY (tenant_id, plan_id)
);
CREATE INDEX ix_data_plans_expire_time ON data_plans (tenant_id, expire_time);
COMMENT ON COLUMN data_plans.done_time IS 'when it was carried out';

CREATE TABLE data_plan_steps (
    tenant_id TEXT NOT NULL,
    plan_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    segment_id TEXT NOT NULL,
    checksum BYTEA NOT NULL,
    stored_bytes BIGINT NOT NULL,
    action SMALLINT NOT NULL,
    saved_bytes BIGINT NOT NULL,
    value_lost DOUBLE PRECISION NOT NULL,
    worth_lost DOUBLE PRECISION NOT NULL,
    explanation TEXT NOT NULL,
    done_bytes BIGINT,
    done_value_lost DOUBLE PRECISION,
    CONSTRAINT pk_data_plan_steps PRIMARY KEY (tenant_id, plan_id, position),
    CONSTRAINT fk_data_plan_steps_tenant_id_data_plans FOREIGN KEY (tenant_id, plan_id)
        REFERENCES data_plans (tenant_id, plan_id) ON DELETE CASCADE
);
COMMENT ON COLUMN data_plan_steps.checksum IS 'of the segment when the plan was made; another one: it has changed';
COMMENT ON COLUMN data_plan_steps.done_bytes IS 'saved, written in the transaction that carried it out; none before';
COMMENT ON COLUMN data_plan_steps.done_value_lost IS 'share of the segment''s worth that was lost, as measured';
