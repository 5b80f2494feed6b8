"""The Lua that Redis runs for conversations: each script happens as a whole or not at all.

A conversation is one hash, so that all of it is stored, expired, evicted and deleted as one: "c"
has its names, "n" how many messages there are, each message's place the message, each message's key
its place, "s" the summary and "v" its version. Three sorted sets list the conversations: by tenant
and user in the order of the names themselves, by last use, and by when they expire. A conversation
is called in them by its tenant, its user and its key, 98 characters.

The first key of every script is that of the store's version, which it checks before anything else.
"""

from typing import Final

__all__ = ["APPEND", "DELETE", "LIST", "READ", "REPLACE", "SUMMARY"]

_SCHEMA: Final = 1
_KEY: Final = 67  # where a conversation's key begins in what it is called
_CLEARED: Final = 8

_BEGIN: Final = f"""
local version = redis.call('GET', KEYS[1])
if version and version ~= '{_SCHEMA}' then
  return redis.error_reply('COSTWISE schema ' .. version)
end
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end
"""

APPEND: Final = f"""{_BEGIN}
-- KEYS: version, names, used, ends, conversation. ARGV: what the keys of conversations begin with,
-- what this one is called, its names, milliseconds to live ('' for ever), then key and message.
local at, most, called = now(), #ARGV, ARGV[2]
if most == 4 then return tonumber(redis.call('HGET', KEYS[5], 'n') or 0) end
if not version then redis.call('SET', KEYS[1], '{_SCHEMA}') end
-- First of all writes one that a full server refuses, for after it none is refused.
redis.call('HSET', KEYS[5], 'c', ARGV[3])
local length = tonumber(redis.call('HGET', KEYS[5], 'n') or 0)
for i = 5, most, 2 do
  if redis.call('HSETNX', KEYS[5], ARGV[i], length) == 1 then
    redis.call('HSET', KEYS[5], length, ARGV[i + 1])
    length = length + 1
  end
end
redis.call('HSET', KEYS[5], 'n', length)
redis.call('ZADD', KEYS[2], 0, called)
redis.call('ZADD', KEYS[3], string.format('%.6f', at), called)
if ARGV[4] == '' then
  redis.call('PERSIST', KEYS[5])
  redis.call('ZREM', KEYS[4], called)
else
  redis.call('PEXPIRE', KEYS[5], ARGV[4])
  redis.call('ZADD', KEYS[4], string.format('%.6f', at + ARGV[4] / 1000), called)
end
local ended = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', at, 'LIMIT', 0, {_CLEARED})
for _, old in ipairs(ended) do
  redis.call('UNLINK', ARGV[1] .. old:sub({_KEY}))
  for set = 2, 4 do redis.call('ZREM', KEYS[set], old) end
end
return length
"""

READ: Final = f"""{_BEGIN}
-- KEYS: version, conversation. ARGV: first place, place after the last, most messages, most bytes
-- of them all, most bytes of one. Returns the place to go on from, -1 at the end, and messages.
local length = tonumber(redis.call('HGET', KEYS[2], 'n') or 0)
local stop, out, size = math.min(length, tonumber(ARGV[2])), {{-1}}, 0
for place = tonumber(ARGV[1]), stop - 1 do
  if #out > tonumber(ARGV[3]) or size > tonumber(ARGV[4]) then
    out[1] = place
    return out
  end
  local long = redis.call('HSTRLEN', KEYS[2], place)
  if long > tonumber(ARGV[5]) then
    out[#out + 1] = false
  else
    out[#out + 1] = redis.call('HGET', KEYS[2], place)
    size = size + long
  end
end
return out
"""

SUMMARY: Final = f"""{_BEGIN}
-- KEYS: version, conversation. ARGV: most bytes.
local kept = redis.call('HGET', KEYS[2], 'v') or '0'
if redis.call('HSTRLEN', KEYS[2], 's') > tonumber(ARGV[1]) then return {{kept, false}} end
return {{kept, redis.call('HGET', KEYS[2], 's')}}
"""

REPLACE: Final = f"""{_BEGIN}
-- KEYS: version, conversation. ARGV: version that is to be there, messages there must be, summary.
local length = redis.call('HGET', KEYS[2], 'n')
if not length or tonumber(length) < tonumber(ARGV[2]) then return 0 end
if (redis.call('HGET', KEYS[2], 'v') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 's', ARGV[3])
redis.call('HINCRBY', KEYS[2], 'v', 1)
return 1
"""

LIST: Final = f"""{_BEGIN}
-- KEYS: version, names, used. ARGV: what the keys of conversations begin with, lowest, highest, how
-- many, last use before, most bytes of names. Returns the last looked at, then pairs: what a
-- conversation is called, and its names.
local found = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3], 'LIMIT', 0, ARGV[4])
local out = {{#found == tonumber(ARGV[4]) and found[#found]}}
for _, called in ipairs(found) do
  local used = tonumber(redis.call('ZSCORE', KEYS[3], called) or 0)
  local key = ARGV[1] .. called:sub({_KEY})
  if used < tonumber(ARGV[5]) and redis.call('EXISTS', key) == 1 then
    local long = redis.call('HSTRLEN', key, 'c')
    out[#out + 1] = called
    out[#out + 1] = long <= tonumber(ARGV[6]) and redis.call('HGET', key, 'c')
  end
end
return out
"""

DELETE: Final = f"""{_BEGIN}
-- KEYS: version, names, used, ends. ARGV: what the keys of conversations begin with, last use
-- before, then for each what it is called and the key of its lease.
local gone = 0
for i = 3, #ARGV, 2 do
  local used = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[i]) or 0)
  if used < tonumber(ARGV[2]) then
    gone = gone + redis.call('UNLINK', ARGV[1] .. ARGV[i]:sub({_KEY}))
    redis.call('UNLINK', ARGV[i + 1])
    for set = 2, 4 do redis.call('ZREM', KEYS[set], ARGV[i]) end
  end
end
return gone
"""
