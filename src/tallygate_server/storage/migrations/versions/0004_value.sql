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
