"""The Lua that Redis runs for a store: each script happens as a whole or not at all.

The first key of every script is that of the store's version, which it checks before anything else.
"""

from typing import Final

__all__ = [
    "ACQUIRE",
    "APPEND",
    "DELETE",
    "FORGET",
    "PUT",
    "READ",
    "READ_LOG",
    "RELEASE",
    "SCHEMA",
    "TOUCH",
]

SCHEMA: Final = 1
"""Version of everything a store writes."""

_CHECK: Final = f"""
local version = redis.call('GET', KEYS[1])
if version and version ~= '{SCHEMA}' then
  return redis.error_reply('COSTWISE schema ' .. version)
end
"""

PUT: Final = f"""{_CHECK}
-- KEYS: version, widths, entries. ARGV: number of embedders, each with its width, then ten values
-- for each entry.
local dims = tonumber(ARGV[1])
for i = 1, dims do
  local dim = redis.call('HGET', KEYS[2], ARGV[2 * i])
  if dim and dim ~= ARGV[2 * i + 1] then
    return redis.error_reply('COSTWISE width ' .. ARGV[2 * i] .. ' ' .. dim)
  end
end
if not version then redis.call('SET', KEYS[1], '{SCHEMA}') end
for i = 1, dims do redis.call('HSET', KEYS[2], ARGV[2 * i], ARGV[2 * i + 1]) end
for i = 3, #KEYS do
  local at = 2 * dims + 2 + 10 * (i - 3)
  local ms, field = tonumber(ARGV[at]), ARGV[at + 8]
  redis.call('DEL', KEYS[i])
  if ms ~= 0 then
    local row = {{'b', ARGV[at + 1], 'l', ARGV[at + 2], 's', ARGV[at + 3], 'c', ARGV[at + 4],
      'u', ARGV[at + 5], 'n', ARGV[at + 6], 't', ARGV[at + 7], 'w', field}}
    if field ~= '' then
      row[#row + 1] = field
      row[#row + 1] = ARGV[at + 9]
    end
    redis.call('HSET', KEYS[i], unpack(row))
    if ms > 0 then redis.call('PEXPIRE', KEYS[i], ARGV[at]) end
  end
end
return #KEYS - 2
"""

READ: Final = f"""{_CHECK}
-- KEYS: version, entries. ARGV: most bytes of a value, whether to read vectors.
-- Of what is too large or no hash only that much is said; of what is not there, nothing.
local out = {{}}
for i = 2, #KEYS do
  local row = redis.pcall('HMGET', KEYS[i], 'n', 'u', 't', 'w')
  if row.err then
    out[i - 1] = 'damaged'
  elseif redis.call('EXISTS', KEYS[i]) == 0 then
    out[i - 1] = false
  else
    local field, size = row[4] or '', 0
    for _, name in ipairs({{'b', 'n', 'u', 't', 'w', field}}) do
      size = size + redis.call('HSTRLEN', KEYS[i], name)
    end
    if size > tonumber(ARGV[1]) then
      out[i - 1] = 'damaged'
    else
      local vector = false
      if ARGV[2] == '1' and field ~= '' then vector = redis.call('HGET', KEYS[i], field) end
      out[i - 1] = {{redis.call('HGET', KEYS[i], 'b'), row[1], row[2], row[3], vector}}
    end
  end
end
return out
"""

DELETE: Final = f"""{_CHECK}
-- KEYS: version, entries. ARGV: for each its token, '' to delete whatever is there.
local out = {{}}
for i = 2, #KEYS do
  out[i - 1] = 0
  if ARGV[i - 1] == '' or redis.call('HGET', KEYS[i], 't') == ARGV[i - 1] then
    out[i - 1] = redis.call('UNLINK', KEYS[i])
  end
end
return out
"""

TOUCH: Final = f"""{_CHECK}
-- KEYS: version, entries. ARGV: for each the number of uses and the time of the last.
for i = 2, #KEYS do
  if redis.call('HEXISTS', KEYS[i], 'n') == 1 then
    redis.call('HINCRBY', KEYS[i], 'n', ARGV[2 * i - 3])
    redis.call('HSET', KEYS[i], 'u', ARGV[2 * i - 2])
  end
end
return 0
"""

FORGET: Final = f"""{_CHECK}
-- KEYS: version, widths. ARGV: an embedder's digest and the width to forget.
if redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[2], ARGV[1]) end
return 0
"""

APPEND: Final = f"""{_CHECK}
-- KEYS: version, log. ARGV: rows to keep, then the rows.
for i = 2, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'r', ARGV[i]) end
return 0
"""

READ_LOG: Final = f"""{_CHECK}
-- KEYS: version, log. ARGV: where to begin, how many rows, most bytes of a row.
local out = {{}}
for i, item in ipairs(redis.call('XRANGE', KEYS[2], ARGV[1], '+', 'COUNT', ARGV[2])) do
  local row = item[2][2]
  if #row > tonumber(ARGV[3]) then row = 0 end
  out[i] = {{item[1], row}}
end
return out
"""

ACQUIRE: Final = f"""{_CHECK}
-- KEYS: version, lease. ARGV: owner, milliseconds.
local owner = redis.call('GET', KEYS[2])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
"""

RELEASE: Final = f"""{_CHECK}
-- KEYS: version, lease. ARGV: owner.
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 0
"""
