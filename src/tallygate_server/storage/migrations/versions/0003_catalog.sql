-- What the catalog says since usage is recorded: which meter a feature hangs on, and what AI models cost.
ALTER TABLE features ADD COLUMN meter_key TEXT DEFAULT '' NOT NULL;
COMMENT ON COLUMN features.meter_key IS 'meter whose events count here too; empty for none';

CREATE TABLE model_prices (
    tenant_id TEXT NOT NULL,
    model_key TEXT NOT NULL,
    position INTEGER NOT NULL,
    currency_code TEXT NOT NULL,
    input_micros_per_million BIGINT NOT NULL,
    output_micros_per_million BIGINT NOT NULL,
    cached_input_micros_per_million BIGINT,
    start_time TIMESTAMP WITH TIME ZONE,
    end_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_model_prices PRIMARY KEY (tenant_id, model_key, position)
);
COMMENT ON COLUMN model_prices.position IS 'order of the prices of one model in time, from 0';

-- The catalog is applied as a whole: the prices of a tenant are replaced.
GRANT SELECT, INSERT, DELETE ON model_prices TO tallygate_app;
