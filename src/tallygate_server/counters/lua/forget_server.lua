-- Strikes a server without holds off the list of those that have some.
--
-- KEYS[1] the server's registry of hold batches    KEYS[2] list of servers    ARGV[1] the server's id
-- Returns 1 when struck off, 0 when it has holds.
--
-- Atomic because it may take its first hold right now; struck off then, nobody would end it after a crash.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('SREM', KEYS[2], ARGV[1])
return 1
