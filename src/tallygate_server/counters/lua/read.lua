-- Reads revisions and counters for the checks of one event-loop tick.
--
-- KEYS[1..a]   account hashes     KEYS[a+1..]  counter hashes
-- ARGV[1]  number of accounts (a)   ARGV[2]  a token that nobody used before
-- Returns a flat list: per account its revision (false: unknown), then per counter committed and held, or, for one
-- that is not known here, false and the lease under which a total that is read from now on may be taken over (see
-- settle.lua).
--
-- One script, so that a counter is never read under an older revision than the one reported.
local account_count = tonumber(ARGV[1])
local results = {}
for a = 1, account_count do
  results[a] = redis.call('HGET', KEYS[a], 'rev')
end
local n = account_count
for i = account_count + 1, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'c', 'h')
  if state[1] then
    results[n + 1], results[n + 2] = state[1], state[2]
  else
    redis.call('HSETNX', KEYS[i], 'l', ARGV[2])
    redis.call('PEXPIRE', KEYS[i], 10000)
    results[n + 1], results[n + 2] = false, redis.call('HGET', KEYS[i], 'l')
  end
  n = n + 2
end
return results
