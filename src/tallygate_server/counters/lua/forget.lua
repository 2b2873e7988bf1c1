-- Forgets what is known of an account that was changed behind the service's back.
--
-- KEYS[1] account hash
-- Returns 1 when forgotten, 0 when the account is changing just now: nobody trusts it then anyway.
--
-- Atomic because the mark of an open change must not be lost.
if redis.call('HGET', KEYS[1], 'rev') == '' then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
