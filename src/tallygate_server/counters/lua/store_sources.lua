-- Keeps an account's sources as read from Postgres, unless something newer is known.
--
-- KEYS[1] account hash    ARGV[1] revision    ARGV[2] sources (JSON)    ARGV[3] time to live in ms
-- Returns 1 when stored, 0 when the account is changing just now or a newer revision is here.
--
-- Atomic because a slow reader must not overwrite what a later writer has published.
local revision = redis.call('HGET', KEYS[1], 'rev')
if revision and (revision == '' or tonumber(revision) > tonumber(ARGV[1])) then
  return 0
end
redis.call('HSET', KEYS[1], 'rev', ARGV[1], 'src', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
