-- Takes holds for the increments of one event-loop tick.
--
-- KEYS[1]         the server's registry of hold batches     KEYS[2]  list of servers that have a registry
-- KEYS[3..a+2]    account hashes
-- KEYS[a+3..]     counter hashes
-- ARGV[1] batch id   ARGV[2] deadline of the batch (ms since 1970)   ARGV[3] number of accounts (a)
-- ARGV[4] the server's id
-- ARGV[5..a+4]    expected revision per account; "*" when it was just read from Postgres
-- then per counter: index of its account (1-based), limit (-1 unlimited), "1" for a hard limit, number of
--                   quantities (n), the n quantities (all positive)
-- Returns one entry per counter: { committed, held before, codes } with one character per quantity:
--   h held   x exhausted by what is committed   r only reservations stand in the way   c contended: only holds of
--   others in flight do
-- or "s" when the account's revision is another one, "m" when the counter is not known here.
--
-- A counter may come more than once in a batch, under different revisions of its account.
--
-- Atomic because each quantity must be checked against the sum of everything held before it.
local batch, deadline, account_count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local fresh = {}
for a = 1, account_count do
  local expected = ARGV[4 + a]
  fresh[a] = expected == '*' or redis.call('HGET', KEYS[2 + a], 'rev') == expected
end
local results, held_keys = {}, {}
local position = 5 + account_count
local counter_count = #KEYS - 2 - account_count
for i = 1, counter_count do
  local key = KEYS[2 + account_count + i]
  local account, limit, hard, n = tonumber(ARGV[position]), tonumber(ARGV[position + 1]), ARGV[position + 2] == '1', tonumber(ARGV[position + 3])
  position = position + 4
  if not fresh[account] then
    results[i] = 's'
  else
    local state = redis.call('HMGET', key, 'c', 'h')
    if not state[1] then
      results[i] = 'm'
    else
      local committed, held_before = tonumber(state[1]), tonumber(state[2] or '0')
      local held, codes, reserved = held_before, {}, nil
      for q = 0, n - 1 do
        local quantity = tonumber(ARGV[position + q])
        if not hard or limit < 0 or committed + held + quantity <= limit then
          held = held + quantity
          codes[q + 1] = 'h'
        elseif committed + quantity > limit then
          codes[q + 1] = 'x'
        else
          reserved = reserved or tonumber(redis.call('HGET', key, 'r') or '0')
          codes[q + 1] = committed + reserved + quantity > limit and 'r' or 'c'
        end
      end
      if held > held_before then
        redis.call('HSET', key, 'h', string.format('%.0f', held))
        redis.call('HINCRBY', key, 'h:' .. batch, string.format('%.0f', held - held_before))
        held_keys[#held_keys + 1] = key
      end
      results[i] = { state[1], string.format('%.0f', held_before), table.concat(codes) }
    end
  end
  position = position + n
end
if #held_keys > 0 then
  redis.call('HSET', KEYS[1], batch, deadline .. ' ' .. table.concat(held_keys, ' '))
  if redis.call('HLEN', KEYS[1]) == 1 then
    -- The registry is new: a sweeper may have struck the server off its list, or Redis may have been flushed.
    redis.call('SADD', KEYS[2], ARGV[4])
  end
end
return results
