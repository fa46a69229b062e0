-- Sends the requests of the file BENCH_REQUESTS one after the other, over all connections, and prints what came of it as
-- one line of JSON. Requests are separated by NUL; \1 in a request stands for a number that is used once.
local heads, tails, count, sent = {}, {}, 0, 0
local serial = tonumber(os.getenv("BENCH_SERIAL") or "0")

function init()
   local file = assert(io.open(os.getenv("BENCH_REQUESTS"), "rb"))
   for text in file:read("*a"):gmatch("[^%z]+") do
      count = count + 1
      local at = text:find("\1", 1, true)
      heads[count] = at and text:sub(1, at - 1) or text
      tails[count] = at and text:sub(at + 1) or false
   end
   file:close()
end

function request()
   sent = sent % count + 1
   local tail = tails[sent]
   if not tail then return heads[sent] end
   serial = serial + 1
   return heads[sent] .. serial .. tail
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nRESULT {"requests":%d,"microseconds":%d,"refused":%d,"broken":%d,"p50_us":%d,"p99_us":%d,"max_us":%d}\n',
      summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50), latency:percentile(99), latency.max))
end
