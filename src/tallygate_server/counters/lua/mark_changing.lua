-- Makes readers ask Postgres about accounts whose entitlements are about to change.
--
-- KEYS account hashes    ARGV[1] time to live of the mark in ms: longer than any transaction can last
-- Returns nothing of interest.
for i = 1, #KEYS do
  redis.call('HSET', KEYS[i], 'rev', '')
  redis.call('HDEL', KEYS[i], 'src', 'lease')
  redis.call('HINCRBY', KEYS[i], 'open', 1)
  redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
return 1
