-- Reversals of a line are found by the line. The index is made in 0003_usage.py, partition by partition.
-- Corrections are counted by the meter role, which writes down who made them in the same transaction.
CREATE POLICY every_tenant ON audit_entries FOR INSERT TO tallygate_meter WITH CHECK (true);
GRANT INSERT (tenant_id, actor, action, subject, detail, create_time) ON audit_entries TO tallygate_meter;
