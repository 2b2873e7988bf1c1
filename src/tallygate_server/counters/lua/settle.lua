-- Ends holds and takes over Postgres' totals; idempotent, and right in any order.
--
-- KEYS[1]     registry of hold batches of the server that took the holds
-- KEYS[2..]   counter hashes
-- ARGV[1]     number of batch ids that are now wholly settled (b), then these ids
-- then per counter: batch id ("" for none), committed total ("" when unknown: only the hold ends), its version
--                   (0 for a counter without any row), the quantity that reservations hold, the earliest time at which
--                   one of them expires (ms since 1970; 0: none), time to live in ms for a counter that is new here
--                   (0: a counter that is not here is left to those who ask Postgres for it)
-- Returns nothing of interest.
--
-- Atomic because a hold may leave `h` only together with the total that contains it.
local done = tonumber(ARGV[1])
for i = 1, done do
  redis.call('HDEL', KEYS[1], ARGV[1 + i])
end
local position = 2 + done
for i = 2, #KEYS do
  local key, batch, committed, version = KEYS[i], ARGV[position], ARGV[position + 1], tonumber(ARGV[position + 2])
  local field = 'h:' .. batch
  local state = redis.call('HMGET', key, 'v', field, 'h', 'r')
  local held = tonumber(state[3] or '0')
  local change = 0
  if state[2] then
    redis.call('HDEL', key, field)
    change = -tonumber(state[2])
  end
  local ttl = tonumber(ARGV[position + 5])
  if committed ~= '' and (state[1] and version > tonumber(state[1]) or not state[1] and ttl > 0) then
    redis.call('HSET', key, 'c', committed, 'v', ARGV[position + 2])
    local reserved = ARGV[position + 3]
    if reserved ~= '0' then
      redis.call('HSET', key, 'r', reserved, 'e', ARGV[position + 4])
    elseif state[4] then
      redis.call('HDEL', key, 'r', 'e')
    end
    change = change + tonumber(reserved) - tonumber(state[4] or '0')
    if not state[1] then
      redis.call('PEXPIRE', key, ttl)
    end
  end
  if change ~= 0 or state[2] then
    redis.call('HSET', key, 'h', string.format('%.0f', held + change))
  end
  position = position + 6
end
return 1
