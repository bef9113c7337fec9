-- The four answers of a verification as plain fields, for step 5 of a trace.

local verification = {}

local names = { "issuer", "dates", "revocation", "name" }

local function shown(certificate)
  if type(certificate) == "string" then return certificate end
  local subject = certificate:subject() or ""
  if subject ~= "" then return subject end
  local other = certificate:names()
  return other and other[1] and other[1].text or "(no name)"
end

--- answers: {issuer = {answer = "yes" | "no" | "unknown", code =, reason =, certificate = index}, dates =,
-- revocation =, name =, path = certificates from the peer's own to the anchor, anchor = certificate}.
-- Returns the same with subjects in the place of certificates, and not_after: when the first
-- certificate of the path to end ends.
function verification.fields(answers)
  local result = {}
  for _, name in ipairs(names) do
    local given = answers[name]
    if type(given) == "table" then
      local row = {}
      for field, value in pairs(given) do
        local kind = type(value)
        if kind == "string" or kind == "number" or kind == "boolean" then row[field] = value end
      end
      result[name] = row
    end
  end
  if type(answers.path) == "table" and #answers.path > 0 then
    result.path = {}
    for i, certificate in ipairs(answers.path) do
      result.path[i] = shown(certificate)
      if type(certificate) == "userdata" then
        local ends = certificate:not_after()
        if type(ends) == "number" and (not result.not_after or ends < result.not_after) then
          result.not_after = ends
        end
      end
    end
  end
  if answers.anchor then result.anchor = shown(answers.anchor) end
  result.skipped = answers.skipped and true or nil
  return result
end

return verification
