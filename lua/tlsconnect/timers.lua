-- What is due next: a binary heap of tables. `due` of each is its time, `place` where it stands; both are nil
-- while it is not in.
local timers = {}

local floor = math.floor

local function rise(heap, timer)
  local place, due = timer.place, timer.due
  while place > 1 do
    local half = floor(place / 2)
    local above = heap[half]
    if above.due <= due then break end
    heap[place], above.place = above, place
    place = half
  end
  heap[place], timer.place = timer, place
end

local function sink(heap, timer)
  local place, due, size = timer.place, timer.due, #heap
  while 2 * place <= size do
    local next_place = 2 * place
    local below = heap[next_place]
    local other = heap[next_place + 1]
    if other and other.due < below.due then next_place, below = next_place + 1, other end
    if due <= below.due then break end
    heap[place], below.place = below, place
    place = next_place
  end
  heap[place], timer.place = timer, place
end

--- Puts a timer in, or moves it to another time.
function timers.set(heap, timer, due)
  timer.due = due
  if not timer.place then
    timer.place = #heap + 1
    heap[timer.place] = timer
  end
  rise(heap, timer)
  sink(heap, timer)
end

--- Takes a timer out, if it is in.
function timers.remove(heap, timer)
  local place = timer.place
  if not place then return end
  local last = table.remove(heap)
  timer.place, timer.due = nil, nil
  if last ~= timer then
    heap[place], last.place = last, place
    rise(heap, last)
    sink(heap, last)
  end
end

return timers
