-- The ten steps as a person reads them in a terminal: a line each, with a bar where its time lies.

local report = require "tlsconnect.cli.report"
local summary = require "tlsconnect.cli.summary"
local text = require "tlsconnect.cli.text"

local waterfall = {}

local NAME, TIME = 17, 10

local eighths = { "\226\150\143", "\226\150\142", "\226\150\141", "\226\150\140",
                  "\226\150\139", "\226\150\138", "\226\150\137" }
local full = "\226\150\136"

-- A bar of `columns` from started to started + elapsed, where `total` is the whole width.
local function bar(row, total, columns, ascii)
  if not row.started or total <= 0 then return (" "):rep(columns) end
  local from = math.min(row.started / total, 1) * columns
  local size = math.min((row.elapsed or 0) / total, 1) * columns
  local first = math.min(math.floor(from), columns - 1)
  local last = math.min(from + size, columns)
  local cells = math.floor(last - first)
  local part = math.floor((last - first - cells) * 8 + 0.5)
  if part == 8 then cells, part = cells + 1, 0 end
  cells = math.min(cells, columns - first)
  local drawn, used
  if size < 1 then
    -- Less than a cell: as thin as it is, not from where the cell begins.
    drawn, used = ascii and "|" or eighths[math.max(1, math.floor(size * 8))], 1
  elseif ascii then
    if part >= 4 and first + cells < columns then cells = cells + 1 end
    drawn = cells > 0 and ("#"):rep(cells) or "|"
    used = math.max(cells, 1)
  else
    if first + cells >= columns then part = 0 end
    drawn = full:rep(cells) .. (part > 0 and eighths[part] or "")
    used = cells + (part > 0 and 1 or 0)
    if used == 0 then drawn, used = eighths[1], 1 end
  end
  return (" "):rep(first) .. drawn .. (" "):rep(columns - first - used)
end
waterfall.bar = bar

local colours = { bad = "31", good = "32", bar = "36", dim = "2", head = "1", warn = "33" }

-- given: a report (cli/report.lua), and ascii, colour, columns, verbose, insecure.
--- The report as text, with a newline at its end.
function waterfall.render(given)
  local ascii, columns = given.ascii, math.max(given.columns or 110, 60)
  local function clean(s) return text.clean(s, ascii) end
  local function paint(kind, s)
    if not given.colour or not colours[kind] or s == "" then return s end
    return "\27[" .. colours[kind] .. "m" .. s .. "\27[0m"
  end
  local out = {}
  local function put(s) out[#out + 1] = (s:gsub("%s+$", "")) end

  local title = summary.endpoint(clean(given.host), given.port)
  local head = table.concat(report.head(given), ", ")
  put(paint("head", title) .. "   " ..
      paint(given.err and "bad" or given.verified and "good" or "warn", head))
  if given.insecure and not given.verified then
    put(paint("bad", "WARNING: not verified (--insecure): anybody could be at the other end"))
  end
  put("")

  local total = report.elapsed(given.steps)
  local bars = math.max(10, math.min(30, math.floor(columns * 0.24)))
  local margin = NAME + bars + TIME + 2
  local room = columns - margin
  if room < 30 then
    -- A narrow terminal: the text goes under the bar.
    margin, room = 4, columns - 4
  end
  local under = (" "):rep(margin)

  local function put_text(lead, lines, kind)
    local first = true
    for _, line in ipairs(lines) do
      for _, piece in ipairs(text.wrap(line, room)) do
        if first and lead and margin > 4 then
          put(lead .. paint(kind, piece))
        else
          if first and lead then put(lead) end
          put(under .. paint(kind, piece))
        end
        first = false
      end
    end
    if first and lead then put(lead) end
  end

  for i, row in ipairs(given.steps) do
    local label = ("%2d %-14s"):format(i, row.step)
    local failed = given.err and given.err.step == row.step or row.ok == false
    if failed then
      local err = row.error or given.err
      local said = clean(err.detail or err.message or err.code)
      for n, piece in ipairs(text.wrap(said, columns - NAME - 8)) do
        put((n == 1 and paint("bad", label .. "FAILED") or (" "):rep(NAME + 6)) .. "  " .. piece)
      end
      local more = summary.failed(row, clean, given.now, said, given.verbose)
      more[#more + 1] = summary.advice(err, clean, given.now)
      for _, line in ipairs(more) do
        for _, piece in ipairs(text.wrap(line, columns - NAME)) do put((" "):rep(NAME) .. piece) end
      end
    elseif row.started then
      local lead = label .. paint("bar", bar(row, total, bars, ascii)) ..
        ("%" .. TIME .. "s  "):format(text.duration(row.elapsed, true))
      local kind = row.step == "verify" and (row.skipped and "bad" or nil)
      put_text(lead, { summary.line(row, clean, given.now) }, kind)
      if given.verbose then
        for _, line in ipairs(summary.details(row, clean, given.now)) do
          local first = NAME
          for _, piece in ipairs(text.wrap(line, columns - NAME - 2)) do
            put((" "):rep(first) .. paint("dim", piece))
            first = NAME + 2
          end
        end
      elseif row.step == "verify" then
        put_text(nil, summary.details(row, clean, given.now), "dim")
      end
    elseif not given.err then
      put(paint("dim", label .. (row.step == "close" and "still open" or "not reached")))
    end
  end
  return table.concat(out, "\n") .. "\n"
end

return waterfall
