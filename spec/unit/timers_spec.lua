-- A heap of what is due next.
local timers = require "tlsconnect.timers"

describe("timers", function()
  local heap
  before_each(function() heap = {} end)

  -- The names in the order in which they come out.
  local function drained()
    local names = {}
    while heap[1] do
      names[#names + 1] = heap[1].name
      timers.remove(heap, heap[1])
    end
    return table.concat(names, " ")
  end

  it("have the earliest first", function()
    for _, due in ipairs { 5, 3, 9, 1, 7, 2, 8, 4, 6 } do timers.set(heap, { name = due }, due) end
    assert.equal("1 2 3 4 5 6 7 8 9", drained())
  end)

  it("are moved, and taken out, wherever they stand", function()
    local all = {}
    for i = 1, 6 do
      all[i] = { name = i }
      timers.set(heap, all[i], 10 * i)
    end
    timers.set(heap, all[6], 5)
    timers.set(heap, all[1], 45)
    timers.remove(heap, all[3])
    timers.remove(heap, all[3])
    assert.is_nil(all[3].place)
    assert.is_nil(all[3].due)
    assert.equal("6 2 4 1 5", drained())
    timers.set(heap, all[3], 1)
    assert.equal("3", drained())
  end)

  it("stay a heap, whatever is done with them", function()
    local all, state = {}, 12345
    local function random(n)
      state = (state * 1103515245 + 12345) % 2147483648
      return math.floor(state / 65536) % n + 1
    end
    for i = 1, 50 do all[i] = { name = i } end
    for _ = 1, 5000 do
      local timer = all[random(50)]
      if random(3) == 1 then timers.remove(heap, timer) else timers.set(heap, timer, random(20)) end
      for place, one in ipairs(heap) do
        assert(one.place == place)
        assert(place == 1 or heap[math.floor(place / 2)].due <= one.due)
      end
      for _, one in ipairs(all) do assert((one.place ~= nil) == (one.due ~= nil)) end
    end
  end)
end)
