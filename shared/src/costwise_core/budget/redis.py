"""Budgets in a Redis server, for any number of processes and machines."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from costwise_core.budget.moves import Balance, Move, Moved, Refusal, digest
from costwise_core.budget.server import ServerBudgets
from costwise_core.budget.together import Answer, Ask
from costwise_core.drive import Flow, call
from costwise_core.errors import StoreError
from costwise_core.stores.breaker import Breaker
from costwise_core.stores.redis_replies import says, value
from costwise_core.stores.redis_rows import Command
from costwise_core.stores.redis_wire import RedisWire, check_prefix, evicting

__all__ = ["RedisBudgets"]

_SCHEMA: Final = 1
_BASE: Final = 10**12
_PAGE: Final = 500

# Lua's numbers are exact up to 2^53, which is nine thousand dollars. So an amount is two of them:
# high * 10^12 + low with 0 <= low < 10^12, for dollars the dollars and what is below one.
# An account is a hash: "sh" and "sl" are spent, "hh" and "hl" the sum of its holds, expired or not,
# and each reservation's hold is a field of its own, "high low until". A sorted set beside it says
# which hold expires when, so that no move reads them all.
_BEGIN: Final = f"""
local version = redis.call('GET', KEYS[1])
if version and version ~= '{_SCHEMA}' then
  return redis.error_reply('COSTWISE schema ' .. version)
end
local function add(ah, al, bh, bl)
  local high, low = ah + bh, al + bl
  if low >= {_BASE} then return high + 1, low - {_BASE} end
  return high, low
end
local function less(ah, al, bh, bl)
  local high, low = ah - bh, al - bl
  if low < 0 then return high - 1, low + {_BASE} end
  return high, low
end
local function hold_of(account, who)
  local found = redis.call('HGET', account, who)
  if not found then return 0, 0 end
  local high, low, til = found:match('^(%d+) (%d+) (%S+)$')
  return tonumber(high), tonumber(low), til
end
local function balance(account, expiring, now)
  local row = redis.call('HMGET', account, 'sh', 'sl', 'hh', 'hl')
  local hh, hl = tonumber(row[3] or 0), tonumber(row[4] or 0)
  for _, who in ipairs(redis.call('ZRANGEBYSCORE', expiring, '-inf', now)) do
    hh, hl = less(hh, hl, hold_of(account, who))
  end
  return tonumber(row[1] or 0), tonumber(row[2] or 0), hh, hl
end
"""

_MOVE: Final = f"""{_BEGIN}
-- KEYS: version, operations, ends, then for each account its hash and what expires.
-- ARGV: reservation, operation, now, until, then for each account its name, when it ends, and
-- limit, hold and spend, each high and low.
local who, what, now, til = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local count = (#KEYS - 3) / 2
local function arguments(i)
  local at = 4 + 8 * (i - 1)
  local amounts = {{}}
  for j = 1, 6 do amounts[j] = tonumber(ARGV[at + 2 + j]) end
  return ARGV[at + 1], ARGV[at + 2], unpack(amounts)
end
local done = redis.call('ZSCORE', KEYS[2], what)
local repeated = done and tonumber(done) > tonumber(now)
if not repeated then
  for i = 1, count do
    local _, _, lh, ll, hh, hl, sh, sl = arguments(i)
    if hh > 0 or hh == 0 and hl > 0 then
      local spent_h, spent_l, held_h, held_l = balance(KEYS[2 * i + 2], KEYS[2 * i + 3], now)
      lh, ll = less(lh, ll, spent_h, spent_l)
      lh, ll = less(lh, ll, held_h, held_l)
      if less(lh, ll, add(hh, hl, sh, sl)) < 0 then return {{'full', i, lh, ll}} end
    end
  end
  if not version then redis.call('SET', KEYS[1], '{_SCHEMA}') end
  -- First of all writes one that a full server refuses, for after it none is refused.
  redis.call('ZADD', KEYS[2], til, what)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
end
local out = {{repeated and 'repeated' or 'made'}}
for i = 1, count do
  local account, expiring = KEYS[2 * i + 2], KEYS[2 * i + 3]
  if not repeated then
    local name, ends, _, _, hh, hl, sh, sl = arguments(i)
    local spent_h, spent_l, held_h, held_l = balance(account, expiring, now)
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', expiring, '-inf', now)) do
      redis.call('HDEL', account, other)
    end
    redis.call('ZREMRANGEBYSCORE', expiring, '-inf', now)
    local own_h, own_l, own_til = hold_of(account, who)
    held_h, held_l = less(held_h, held_l, own_h, own_l)
    own_h, own_l = add(own_h, own_l, hh, hl)
    if own_h > 0 or own_h == 0 and own_l > 0 then
      if not own_til or tonumber(own_til) < tonumber(til) then own_til = til end
      redis.call('HSET', account, who, string.format('%.0f %.0f %s', own_h, own_l, own_til))
      redis.call('ZADD', expiring, own_til, who)
      held_h, held_l = add(held_h, held_l, own_h, own_l)
    elseif own_til then
      redis.call('HDEL', account, who)
      redis.call('ZREM', expiring, who)
    end
    spent_h, spent_l = add(spent_h, spent_l, sh, sl)
    redis.call('HSET', account, 'sh', string.format('%.0f', spent_h),
      'sl', string.format('%.0f', spent_l), 'hh', string.format('%.0f', held_h),
      'hl', string.format('%.0f', held_l))
    redis.call('ZADD', KEYS[3], ends, name)
  end
  for _, number in ipairs({{balance(account, expiring, now)}}) do out[#out + 1] = number end
end
return out
"""

_DIGEST: Final = hashlib.sha1(_MOVE.encode(), usedforsecurity=False).hexdigest()
"""What the server calls the script by once it has it, so that it is not sent each time."""

_BALANCES: Final = f"""{_BEGIN}
-- KEYS: version, then for each account its hash and what expires. ARGV: now.
local out = {{}}
for i = 2, #KEYS, 2 do
  for _, number in ipairs({{balance(KEYS[i], KEYS[i + 1], ARGV[1])}}) do out[#out + 1] = number end
end
return out
"""

_FORGET: Final = f"""{_BEGIN}
-- KEYS: version, ends, then for each account its hash and what expires.
-- ARGV: the time before which they ended, then their names.
local gone = 0
for i = 2, #ARGV do
  local ends = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if ends and tonumber(ends) <= tonumber(ARGV[1]) then
    redis.call('UNLINK', KEYS[2 * i - 1], KEYS[2 * i])
    gone = gone + redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
return gone
"""


class RedisBudgets(ServerBudgets):
    """Keeps what budgets have spent and hold in Redis 6 or newer; one script is one move.

    The constructor connects to nothing. What `move` returned from outlives a `kill -9` of the
    server if that runs with `appendonly yes`; with `appendfsync always` it outlives a power cut
    too. A server that may evict keys without a lifetime (a `maxmemory-policy` of "allkeys-...")
    is refused: it would forget what was spent. One server, with replicas or not, but no cluster.

    Every method has an asynchronous twin with an "a" in front.

    Args:
        url: Such as "redis://localhost:6379/0"; rediss:// for TLS, unix:// for a socket.
        prefix: What all keys begin with; stores of different prefixes share nothing. It may be that
            of a `RedisStore`.
        timeout: Seconds to wait for a connection, and again for a reply.
        options: More arguments for redis-py's clients, such as `credential_provider`.

    Raises:
        MissingExtraError: if redis-py is not installed.
        ConfigError: if an argument makes no sense.

    Example:
        >>> from costwise_core.budget.redis import RedisBudgets
        >>> store = RedisBudgets("redis://localhost:6379/0", prefix="shop")
        >>> store.close()
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "costwise",
        timeout: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_prefix(prefix)
        self._prefix = f"{prefix}:budget"
        self._operations = f"{self._prefix}:operations"
        self._ends = f"{self._prefix}:ends"
        self._wire = RedisWire(
            url,
            timeout=timeout,
            options=options or {},
            breaker=Breaker(),
            feature="RedisBudgets",
        )
        self._keeps = False

    def close(self) -> None:
        """Close the connections made outside of event loops; using the store opens new ones."""
        self._wire.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections, and what `close` closes."""
        await self._wire.aclose()

    # --- what a move is -------------------------------------------------------------------------

    def _moves(self, asks: Sequence[Ask]) -> Flow[list[Answer]]:
        yield from self._check()
        commands = [self._move(ask) for ask in asks]
        replies = yield from call(self._wire.send, commands)
        if any(
            says(reply, "NOSCRIPT", "no matching script") for reply in replies
        ):  # a server that is new, so none ran
            load: Command = ("SCRIPT", "LOAD", _MOVE)
            _, *replies = yield from call(self._wire.send, [load, *commands])
        return [_answer(ask, reply) for ask, reply in zip(asks, replies, strict=True)]

    def _move(self, ask: Ask) -> Command:
        names = [digest(move.account).hex() for move in ask.moves]
        return self._script(
            _DIGEST,
            (self._operations, self._ends),
            names,
            digest(ask.reservation).hex(),
            digest(ask.reservation, ask.operation).hex(),
            ask.now,
            ask.expires,
            *(
                part
                for name, move in zip(names, ask.moves, strict=True)
                for part in _row(name, move)
            ),
        )

    def _balances(self, accounts: Sequence[str], now: float) -> Flow[list[Balance]]:
        names = [digest(account).hex() for account in accounts]
        (reply,) = yield from call(self._wire.send, [self._script(_BALANCES, (), names, now)])
        return _read(value(reply))

    def _forget(self, ended_before: float) -> Flow[int]:
        ended = ("ZRANGEBYSCORE", self._ends, "-inf", ended_before, "LIMIT", 0, _PAGE)
        gone = 0
        while True:
            (reply,) = yield from call(self._wire.send, [ended])
            names = [name.decode() for name in value(reply)]
            if not names:
                return gone
            script = self._script(_FORGET, (self._ends,), names, ended_before, *names)
            (reply,) = yield from call(self._wire.send, [script])
            gone += int(value(reply))

    def _check(self) -> Flow[None]:
        """Refuse a server that would evict what was spent; looked at once."""
        if self._keeps:
            return
        (reply,) = yield from call(self._wire.send, [("INFO", "memory")])
        if policy := evicting(value(reply), expiring=False):
            raise StoreError(
                f"this Redis server may evict any key (maxmemory-policy {policy}), so it would "
                "forget what was spent; use noeviction or a volatile-... policy."
            )
        self._keeps = True

    def _script(
        self, script: str, shared: Sequence[str], names: Sequence[str], *values: str | float
    ) -> Command:
        accounts = [f"{self._prefix}:{kind}:{name}" for name in names for kind in ("a", "x")]
        keys = (f"{self._prefix}:schema", *shared, *accounts)
        return ("EVALSHA" if script == _DIGEST else "EVAL", script, len(keys), *keys, *values)


def _row(name: str, move: Move) -> tuple[str | float, ...]:
    amounts = (move.limit, move.hold, move.spend)
    return (name, move.ends, *(part for amount in amounts for part in divmod(amount, _BASE)))


def _answer(ask: Ask, reply: object) -> Answer:
    try:
        outcome, *numbers = value(reply)
    except StoreError as error:
        return error
    if outcome == b"full":
        place, high, low = numbers
        left = max(0, high * _BASE + low)
        return Refusal(account=ask.moves[place - 1].account, left=left)
    return Moved(balances=tuple(_read(numbers)), repeated=outcome == b"repeated")


def _read(numbers: Sequence[int]) -> list[Balance]:
    rows = zip(*[iter(numbers)] * 4, strict=True)
    return [Balance(spent=sh * _BASE + sl, held=hh * _BASE + hl) for sh, sl, hh, hl in rows]
