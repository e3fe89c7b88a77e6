-- What the stand-in answers: Workers AI's own form, or OpenAI's where the path asks for that.
--
-- A marker in the prompt chooses how, so it works through any proxy: seconds, bytes and counts, as
-- in [[wait=1]], [[size=1000000]] (whole answers) and [[tokens=100,first=0.2,gap=0.02]] (streams).
-- Each token is the time at which it was written, "t=MICROSECONDS;", by the monotonic clock, which
-- the load generator shares: what a proxy adds to a token's way can be read off at its end.

local ffi = require "ffi"
ffi.cdef [[
    typedef struct { long seconds, nanoseconds; } moment;
    int clock_gettime(int clock, moment *now);
]]
local MONOTONIC = 1
local moment = ffi.new "moment"

local function token()
    ffi.C.clock_gettime(MONOTONIC, moment)
    local us = tonumber(moment.seconds) * 1e6 + math.floor(tonumber(moment.nanoseconds) / 1e3)
    return string.format("t=%d; ", us)
end

local USAGE = '"usage":{"prompt_tokens":25,"completion_tokens":150,"total_tokens":175}'
local CHUNK = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,'
    .. '"model":"stand-in","choices":[{"index":0,"delta":'

local WORKERS_AI = {
    whole = { '{"result":{"response":"', '",' .. USAGE
        .. '},"success":true,"errors":[],"messages":[]}' },
    token = { 'data: {"response":"', '","p":"abcdefghijklmn"}\n\n' },
    finish = 'data: {"response":"",' .. USAGE .. '}\n\ndata: [DONE]\n\n',
}
local OPENAI = {
    whole = { '{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,'
        .. '"model":"stand-in","choices":[{"index":0,"message":{"role":"assistant","content":"',
        '"},"finish_reason":"stop"}],' .. USAGE .. '}' },
    token = { CHUNK .. '{"content":"', '"},"finish_reason":null}]}\n\n' },
    finish = CHUNK .. '{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
}
local REFUSAL = '{"result":null,"success":false,'
    .. '"errors":[{"code":10000,"message":"Authentication error"}],"messages":[]}'

local function marked(body)
    local marker = { wait = 0, size = 900, tokens = 20, first = 0, gap = 0 }
    for name, number in (body:match "%[%[([^%]]*)%]%]" or ""):gmatch "(%a+)=([%d.]+)" do
        marker[name] = tonumber(number)
    end
    return marker
end

local function send_whole(form, marker)
    if marker.wait > 0 then
        ngx.sleep(marker.wait)
    end
    local text = ("word "):rep(math.floor(marker.size / 5)) .. "end."
    local body = form.whole[1] .. text .. form.whole[2]
    ngx.header["Content-Length"] = #body
    ngx.print(body)
end

local function send_stream(form, marker)
    ngx.header["Content-Type"] = "text/event-stream"
    if marker.first > 0 then
        ngx.sleep(marker.first)
    end
    for number = 1, marker.tokens do
        if not ngx.print(form.token[1], token(), form.token[2]) then
            return -- the reader has gone
        end
        if marker.gap > 0 then
            ngx.flush()
            ngx.sleep(marker.gap)
        elseif number % 4 == 0 then
            ngx.flush(true) -- as fast as the reader reads, four tokens a write
        end
    end
    ngx.print(form.finish)
end

return function()
    if ngx.var.http_authorization ~= "Bearer @PROVIDER_KEY@" then
        ngx.status = 401
        ngx.print(REFUSAL)
        return
    end
    ngx.req.read_body()
    local body = ngx.req.get_body_data() or ""
    local form = ngx.var.uri:find("/chat/completions", 1, true) and OPENAI or WORKERS_AI
    if body:find('"stream":true', 1, true) or body:find('"stream": true', 1, true) then
        send_stream(form, marked(body))
    else
        send_whole(form, marked(body))
    end
end
