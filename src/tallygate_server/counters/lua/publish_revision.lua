-- Ends one change of each account and, when it was the last one open, publishes the newest revision.
--
-- KEYS account hashes    ARGV[1] time to live in ms, ARGV[2..] one revision per account (0: rolled back)
-- Returns nothing of interest.
--
-- Atomic because of two writers of one account: whoever publishes last, the higher revision stays, and the
-- mark of a change that is still open is kept until its own end.
for i = 1, #KEYS do
  local key, revision = KEYS[i], tonumber(ARGV[1 + i])
  local state = redis.call('HMGET', key, 'rev', 'open', 'next')
  local newest = math.max(revision, tonumber(state[3] or '0'))
  if state[1] and state[1] ~= '' then
    newest = math.max(newest, tonumber(state[1]))
  end
  local open = tonumber(state[2] or '1') - 1
  if open > 0 then
    redis.call('HSET', key, 'open', open, 'next', string.format('%.0f', newest))
  elseif newest == 0 then
    redis.call('DEL', key)
  elseif not state[1] or state[1] ~= string.format('%.0f', newest) then
    redis.call('DEL', key)
    redis.call('HSET', key, 'rev', string.format('%.0f', newest))
    redis.call('PEXPIRE', key, ARGV[1])
  end
end
return 1
