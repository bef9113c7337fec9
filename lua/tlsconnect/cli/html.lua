-- A trace as one page: waterfall, messages between client and server, every step's details. It needs
-- nothing from outside, runs no script, and reads well on a phone, in the dark and on paper.

local report = require "tlsconnect.cli.report"
local steps = require "tlsconnect.steps"
local summary = require "tlsconnect.cli.summary"
local text = require "tlsconnect.cli.text"

local html = {}

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function escape(s) return (s:gsub("[&<>\"']", entities)) end

local style = [[
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1d2329; --dim: #5c6670; --line: #d7dbdf; --card: #ffffff;
  --bar: #2f6db5; --good: #1d7a44; --bad: #b3261e; --warn: #8a5a00; --client: #2f6db5; --server: #7a4fb0; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181c; --ink: #e4e8ec; --dim: #9aa5b0; --line: #343c44; --card: #1b2026;
  --bar: #6ea8ea; --good: #62c98c; --bad: #ff8a80; --warn: #e2b04a; --client: #6ea8ea; --server: #bd9bea; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
p { margin: .3rem 0; }
.head span { display: inline-block; margin-right: .9rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.dim { color: var(--dim); }
.head .good, .head .bad, .head .warn { font-weight: 600; }
.alarm { border: 2px solid var(--bad); border-radius: .4rem; padding: .6rem .9rem; margin: 1rem 0;
  overflow-wrap: anywhere; }
.alarm b { color: var(--bad); }
.fall { border-top: 1px solid var(--line); }
.fall .row { display: grid; grid-template-columns: 8.5rem 1fr 5rem; gap: 0 .8rem; align-items: center;
  border-bottom: 1px solid var(--line); padding: .3rem 0; }
.name { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, monospace; font-size: .9rem;
  white-space: nowrap; }
.name a { color: inherit; text-decoration: none; }
.name a:hover, .name a:focus { text-decoration: underline; }
.time { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; font-size: .9rem; }
.track { position: relative; height: 1.1rem; }
.track i { position: absolute; top: 0; bottom: 0; min-width: 2px; border-radius: 2px;
  background: var(--bar); }
.failed .track i { background: var(--bad); }
.failed .name { color: var(--bad); font-weight: 600; }
.flow { display: grid; grid-template-columns: 1fr; }
.ends { display: flex; justify-content: space-between; font-weight: 600; padding: 0 0 .3rem; }
.ends span:first-child { color: var(--client); } .ends span:last-child { color: var(--server); }
.lanes { border-left: 3px solid var(--client); border-right: 3px solid var(--server); padding: .3rem 0; }
.message { position: relative; padding: .25rem .9rem .45rem; }
.message div { display: flex; flex-wrap: wrap; gap: 0 .7rem; align-items: baseline; }
.message.server div { justify-content: flex-end; }
.message::after { content: ""; display: block; border-bottom: 2px solid currentColor; margin-top: .1rem; }
.message::before { content: ""; position: absolute; bottom: calc(.45rem - 4px);
  border: 5px solid transparent; }
.message.client::after, .message.client::before { color: var(--client); }
.message.server::after, .message.server::before { color: var(--server); }
.message.client::before { right: .5rem; border-left: 9px solid currentColor; border-right: 0; }
.message.server::before { left: .5rem; border-right: 9px solid currentColor; border-left: 0; }
.message b { font-weight: 600; overflow-wrap: anywhere; }
.message span { color: var(--dim); font-size: .85rem; font-variant-numeric: tabular-nums; }
.step { background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  padding: .7rem .9rem; margin: .7rem 0; break-inside: avoid; }
.step.failed { border-color: var(--bad); }
.step h3 { margin: 0; font-size: 1rem; display: flex; flex-wrap: wrap; gap: 0 .8rem;
  justify-content: space-between; }
.step h3 span { font-weight: 400; color: var(--dim); font-size: .9rem; }
.step .about { color: var(--dim); font-size: .9rem; margin: 0 0 .3rem; }
.step ul { margin: .4rem 0 0; padding-left: 1.1rem; font-size: .88rem; color: var(--dim); }
.step li, .step p { overflow-wrap: anywhere; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .4rem;
  margin: .5rem 0 0; }
.answers div { border: 1px solid var(--line); border-radius: .3rem; padding: .3rem .6rem; }
.answers b { display: block; font-size: .85rem; color: var(--dim); font-weight: 400; }
footer { margin-top: 2.5rem; color: var(--dim); font-size: .85rem; }
@media (max-width: 40rem) {
  body { font-size: 15px; }
  .fall .row { grid-template-columns: 1fr auto; }
  .fall .track { grid-column: 1 / -1; grid-row: 2; height: .8rem; }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --dim: #444; --line: #bbb; }
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  .track i, .alarm { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .row, .message, .step { break-inside: avoid; }
  h2 { break-after: avoid; }
}
]]

local function percent(value) return (("%.3f"):format(value):gsub(",", ".")) .. "%" end

local function put_waterfall(put, given, failed)
  local total = math.max(report.elapsed(given.steps), 1e-9)
  put '<h2 id="waterfall">Where the time went</h2>\n<div class="fall">\n'
  for i, row in ipairs(given.steps) do
    local from = row.started and math.min(row.started / total, 1) * 100
    local width = row.started and math.min((row.elapsed or 0) / total, 1) * 100
    put(('<div class="row%s"><div class="name"><a href="#%s">%d %s</a></div><div class="track">%s</div>' ..
         '<div class="time">%s</div></div>\n'):format(failed(row) and " failed" or "", row.step, i, row.step,
      from and ('<i style="left:%s;width:%s"></i>'):format(percent(math.min(from, 99.6)),
        percent(math.min(width, 100 - from))) or "",
      failed(row) and "failed" or row.started and escape(text.duration(row.elapsed)) or "&ndash;"))
  end
  put "</div>\n"
end

local function put_messages(put, given)
  local messages = report.messages(given.steps)
  if #messages == 0 then return end
  put '<h2 id="messages">What was said</h2>\n<div class="flow"><div class="ends"><span>client</span>'
  put '<span>server</span></div><div class="lanes">\n'
  for _, message in ipairs(messages) do
    put(('<div class="message %s"><div><b>%s</b> <span>%s, %s%s</span></div></div>\n'):format(
      message.from == "client" and "client" or "server", escape(text.clean(message.type)),
      escape(text.bytes(message.size or 0)), "at " .. escape(text.duration(message.time)),
      message.malformed and ", " .. escape(text.clean(message.malformed)) or ""))
  end
  put "</div></div>\n"
end

local function put_answers(put, row)
  local any = false
  for _, check in ipairs(summary.checks) do any = any or type(row[check[1]]) == "table" end
  if not any then return end
  put '<div class="answers">'
  for _, check in ipairs(summary.checks) do
    local value = row[check[1]]
    if type(value) == "table" then
      local kind = value.answer == "yes" and "good" or value.answer == "no" and "bad" or "warn"
      put(('<div><b>%s</b><span class="%s">%s</span></div>'):format(check[1], kind,
        escape(check[value.answer] or check.unknown)))
    end
  end
  put "</div>\n"
end

local function put_steps(put, given, failed)
  put '<h2 id="steps">The ten steps</h2>\n'
  for i, row in ipairs(given.steps) do
    local bad = failed(row)
    local time = bad and "failed" or row.started and text.duration(row.elapsed) or "not reached"
    put(('<section class="step%s" id="%s"><h3>%d %s <span>%s</span></h3><p class="about">%s</p>\n'):format(
      bad and " failed" or "", row.step, i, row.step, escape(time), escape(steps.about[row.step])))
    if bad then
      local err = row.error or given.err
      put(('<p class="bad">%s</p>\n'):format(escape(text.clean(err.detail or err.message or err.code))))
      local advice = summary.advice(err, text.clean, given.now)
      if advice then put("<p>" .. escape(advice) .. "</p>\n") end
    end
    local lines = {}
    if bad then
      local err = row.error or given.err
      lines = summary.failed(row, text.clean, given.now,
        text.clean(err.detail or err.message or err.code), true)
    elseif row.started then
      lines = summary.details(row, text.clean, given.now)
      table.insert(lines, 1, summary.line(row, text.clean, given.now))
    end
    if lines[1] and lines[1] ~= "" then put(("<p>%s</p>\n"):format(escape(lines[1]))) end
    if row.step == "verify" then put_answers(put, row) end
    if #lines > 1 then
      put "<ul>"
      for n = 2, #lines do put("<li>" .. escape(lines[n]) .. "</li>") end
      put "</ul>\n"
    end
    put "</section>\n"
  end
end

--- The page. given: a report (cli/report.lua), and insecure, program (a line for the foot).
function html.render(given)
  local out = {}
  local function put(s) out[#out + 1] = s end
  local function failed(row)
    return given.err and given.err.step == row.step or row.ok == false
  end
  local title = escape(summary.endpoint(text.clean(given.host), given.port))
  put('<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n' ..
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n' ..
      '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ' ..
      'style-src \'unsafe-inline\'; img-src data:">\n' ..
      '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n' ..
      "<title>" .. title .. ": the ten steps</title>\n<style>\n" .. style ..
      "</style>\n</head>\n<body>\n<main>\n")
  put("<h1>" .. title .. '</h1>\n<p class="head">')
  for i, part in ipairs(report.head(given)) do
    local class = ""
    if part == "verified" then
      class = ' class="good"'
    elseif part:find("^FAILED") then
      class = ' class="bad"'
    elseif part:find("^NOT") then
      class = ' class="warn"'
    end
    put(("%s<span%s>%s</span>"):format(i > 1 and " " or "", class, escape(part)))
  end
  put("</p>\n<p class=\"dim\">" .. escape(text.date(given.now)) .. "</p>\n")
  if given.insecure and not given.verified then
    put('<p class="alarm"><b>Not verified (--insecure).</b> Anybody could be at the other end.</p>\n')
  end
  if given.err then
    put(('<p class="alarm"><b>%s</b> %s</p>\n'):format(escape(given.err.step or "error"),
      escape(text.clean(given.err.detail or given.err.message or given.err.code))))
  end
  put_waterfall(put, given, failed)
  put_messages(put, given)
  put_steps(put, given, failed)
  put("<footer>" .. escape(given.program or "tlsconnect") .. "</footer>\n</main>\n</body>\n</html>\n")
  return table.concat(out)
end

return html
