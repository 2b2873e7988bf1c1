-- Returns an account's sources, or the right to bring them.
--
-- KEYS[1] account hash    ARGV[1] a token that nobody used before    ARGV[2] time to live in ms of a hash made here
-- Returns { revision, sources }, or { token } of the lease under which the caller may store what it reads from
-- Postgres from now on, or an empty list while the account is changing: then nothing may be stored.
--
-- Atomic because a lease must be of a moment when nobody had marked the account: every mark, publication and
-- loss of the hash ends it, so what is stored under it was not read before one of these.
local state = redis.call('HMGET', KEYS[1], 'rev', 'src', 'lease')
if state[1] == '' then
  return {}
end
if state[1] and state[2] then
  return { state[1], state[2] }
end
if state[3] then
  return { state[3] }
end
redis.call('HSET', KEYS[1], 'lease', ARGV[1])
if not state[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return { ARGV[1] }
