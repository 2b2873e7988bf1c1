-- Reads revisions and counters for the checks of one event-loop tick.
--
-- KEYS[1..a]   account hashes     KEYS[a+1..]  counter hashes     ARGV[1]  number of accounts (a)
-- Returns a flat list: per account its revision (false: unknown), then per counter committed (false: unknown),
-- held, reservations included, and the earliest time at which a reservation expires (ms since 1970; false: none).
--
-- One script, so that a counter is never read under an older revision than the one reported.
local account_count = tonumber(ARGV[1])
local results = {}
for a = 1, account_count do
  results[a] = redis.call('HGET', KEYS[a], 'rev')
end
local n = account_count
for i = account_count + 1, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'c', 'h', 'e')
  results[n + 1], results[n + 2], results[n + 3] = state[1], state[2], state[3]
  n = n + 3
end
return results
