"""The decision of `gateway/limits/reservation.py` as Lua scripts for Redis 6.2 or later: nothing here but text.

Whole microseconds since 2025, on Redis's own clock, so replicas need no common one and every number stays an exact double. An
account is three keys under one hash tag: its counters, its leases by expiry, and what each lease left behind.
"""

from __future__ import annotations

EPOCH_S = 1_735_689_600

_CLOCK = """
local t = redis.call('TIME')
local now = (tonumber(t[1]) - 1735689600) * 1000000 + tonumber(t[2])
local function text(x) return string.format('%.0f', x) end
local function cost(units, rate) return math.ceil(units * 60000000 / rate) end
"""

# KEYS: counters, leases, marks of each account in turn.
# ARGV: lease id, tokens, day, lease microseconds; then requests a minute, burst, tokens a minute, concurrent, daily (-1: none)
# of each account. Answers {code, wait, then for each account the times in which its requests and tokens are full again}.
RESERVE = (
    _CLOCK
    + """
local id, tokens, day, ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local found, code, wait = {}, 'ok', 0
local spent, full = false, false
for i = 1, #KEYS / 3 do
  local a = {}
  for j = 1, 5 do a[j] = tonumber(ARGV[4 + (i - 1) * 5 + j]) end
  local h = redis.call('HMGET', KEYS[i * 3 - 2], 'r', 't', 'b', 'd', 'u')
  local s = {a = a, r = math.max(tonumber(h[1] or 0), now), t = math.max(tonumber(h[2] or 0), now), b = tonumber(h[3] or 0), u = 0, d = day}
  local last = tonumber(h[4] or -2) - tonumber(day)
  if last == 0 or last == 1 then s.u = tonumber(h[5] or 0); s.d = h[4] end
  found[i] = s
  if tokens > a[3] or (a[5] >= 0 and tokens > a[5]) then return {'impossible', 0} end
  if a[5] >= 0 and s.u + tokens > a[5] then spent = true end
  local w = s.r - now + cost(1, a[1]) - cost(a[2], a[1])
  if w > wait then code = 'requests'; wait = w end
  w = s.t - now + cost(tokens, a[3]) - cost(a[3], a[3])
  if w > wait then code = 'tokens'; wait = w end
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[i * 3 - 1], '-inf', text(now))) do
    redis.call('ZREM', KEYS[i * 3 - 1], old); redis.call('HDEL', KEYS[i * 3], old)
  end
  if redis.call('ZCARD', KEYS[i * 3 - 1]) >= a[4] then full = true end
end
if spent then code = 'quota' elseif code == 'ok' and full then code = 'concurrency' end
local answer = {code, wait}
for i, s in ipairs(found) do
  if code == 'ok' then
    local counters, leases, marks = KEYS[i * 3 - 2], KEYS[i * 3 - 1], KEYS[i * 3]
    s.r = s.r + cost(1, s.a[1])
    s.t = s.t + cost(tokens, s.a[3])
    redis.call('HSET', counters, 'r', text(s.r), 't', text(s.t), 'b', text(s.b), 'd', s.d, 'u', text(s.u + tokens))
    redis.call('ZADD', leases, text(now + ttl), id)
    redis.call('HSET', marks, id, text(s.t + s.b) .. ':' .. text(tokens) .. ':' .. text(s.a[3]) .. ':' .. s.d)
    local keep = math.ceil((math.max(s.r, s.t) - now + ttl) / 1000) + 1000
    if s.a[5] >= 0 then keep = math.max(keep, 172800000) end
    redis.call('PEXPIRE', counters, text(keep))
    redis.call('PEXPIRE', leases, text(keep))
    redis.call('PEXPIRE', marks, text(keep))
  end
  answer[#answer + 1] = s.r - now
  answer[#answer + 1] = s.t - now
end
return answer
"""
)

# KEYS as above. Answers, for each account, the times in which its requests and tokens are full again. Changes nothing.
STANDING = (
    _CLOCK
    + """
local answer = {}
for i = 1, #KEYS / 3 do
  local h = redis.call('HMGET', KEYS[i * 3 - 2], 'r', 't')
  answer[#answer + 1] = math.max(tonumber(h[1] or 0) - now, 0)
  answer[#answer + 1] = math.max(tonumber(h[2] or 0) - now, 0)
end
return answer
"""
)

# KEYS as above. ARGV: lease id, tokens used. Answers how many accounts still held the lease.
SETTLE = (
    _CLOCK
    + """
local id, used, settled = ARGV[1], tonumber(ARGV[2]), 0
for i = 1, #KEYS / 3 do
  local counters, leases, marks = KEYS[i * 3 - 2], KEYS[i * 3 - 1], KEYS[i * 3]
  local expiry = tonumber(redis.call('ZSCORE', leases, id) or 0)
  local left = redis.call('HGET', marks, id)
  redis.call('ZREM', leases, id); redis.call('HDEL', marks, id)
  if left and expiry > now then
    settled = settled + 1
    local mark, reserved, rate, day = string.match(left, '^(%d+):(%d+):(%d+):(%d+)$')
    mark, reserved, rate = tonumber(mark), tonumber(reserved), tonumber(rate)
    local h = redis.call('HMGET', counters, 't', 'b', 'd', 'u')
    local tat, back = tonumber(h[1] or 0), tonumber(h[2] or 0)
    local unused = reserved - used
    if unused > 0 then
      local give = math.min(math.floor(unused * 60000000 / rate), mark - back - now)
      if give > 0 then tat = tat - give; back = back + give end
    elseif unused < 0 then
      tat = math.max(tat, now) + cost(-unused, rate)
    end
    redis.call('HSET', counters, 't', text(tat), 'b', text(back))
    if h[3] == day then redis.call('HSET', counters, 'u', text(math.max(0, tonumber(h[4] or 0) - unused))) end
    if redis.call('PTTL', counters) < 0 then redis.call('PEXPIRE', counters, 172800000) end
  end
end
return settled
"""
)
