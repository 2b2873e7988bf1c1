-- Keeps an account's sources as read from Postgres, if they were read under a lease that still stands.
--
-- KEYS[1] account hash    ARGV[1] lease    ARGV[2] revision    ARGV[3] sources (JSON)    ARGV[4] time to live in ms
-- Returns 1 when stored, 0 when the account was changed, forgotten or stored since the lease was given.
--
-- Atomic because a slow reader must not overwrite what a later writer has published, nor bring back what was
-- published before Redis was flushed.
if redis.call('HGET', KEYS[1], 'lease') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'lease')
redis.call('HSET', KEYS[1], 'rev', ARGV[2], 'src', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
