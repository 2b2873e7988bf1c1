-- Ends holds and takes over Postgres' totals; idempotent, and right in any order.
--
-- KEYS[1]     registry of hold batches of the server that took the holds
-- KEYS[2..]   counter hashes
-- ARGV[1]     number of batch ids that are now wholly settled (b), then these ids
-- then per counter: batch id ("" for none), committed total ("" when unknown: only the hold ends), its version
--                   (0 for a counter without any row), time to live in ms for a counter that is new here, lease
--                   ("" for none)
-- Returns nothing of interest.
--
-- A counter that is not here is made by whoever has the lease that it was given since (hold.lua, read.lua): his total
-- is no older than his question. A total without that lease may be older than what was lost; it is put aside, in case
-- that it is the newer one.
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
  local state = redis.call('HMGET', key, 'v', field, 'h')
  if state[2] then
    redis.call('HDEL', key, field)
    redis.call('HSET', key, 'h', string.format('%.0f', tonumber(state[3] or '0') - tonumber(state[2])))
  end
  if committed ~= '' then
    if state[1] then
      if version > tonumber(state[1]) then
        redis.call('HSET', key, 'c', committed, 'v', ARGV[position + 2])
      end
    else
      local lease = redis.call('HMGET', key, 'l', 'ac', 'av')
      if lease[1] then
        local newest, newest_version = committed, ARGV[position + 2]
        if lease[3] and tonumber(lease[3]) > version then
          newest, newest_version = lease[2], lease[3]
        end
        if lease[1] == ARGV[position + 4] then
          redis.call('HDEL', key, 'l', 'ac', 'av')
          redis.call('HSET', key, 'c', newest, 'v', newest_version)
          redis.call('PEXPIRE', key, ARGV[position + 3])
        else
          redis.call('HSET', key, 'ac', newest, 'av', newest_version)
        end
      end
    end
  end
  position = position + 5
end
return 1
