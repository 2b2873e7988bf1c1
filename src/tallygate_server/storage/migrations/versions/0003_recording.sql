-- Settings of tenants that recording and correcting usage go by.
ALTER TABLE tenants ADD COLUMN settings JSONB DEFAULT '{}'::jsonb NOT NULL;
COMMENT ON COLUMN tenants.settings IS 'settings that have no column of their own';
