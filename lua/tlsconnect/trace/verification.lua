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
-- revocation =, name =, path = certificates from the peer's own to the anchor, anchor = certificate,
-- muted = {question = true where its answer is ignored}}.
-- Returns the same with subjects in the place of certificates, and not_after: when the first
-- certificate of the path to end ends.
function verification.fields(answers)
  local result = {}
  for _, name in ipairs(names) do
    local given = answers[name]
    if type(given) == "table" then
      result[name] = {
        answer = given.answer, code = given.code, reason = given.answer ~= "yes" and given.reason or nil,
        certificate = given.certificate, subject = given.subject, source = given.source,
        must_staple = given.must_staple, ignored = answers.muted and answers.muted[name] or nil,
      }
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
  return result
end

--- Whether step 5 of a trace says that the peer is who it should be: every question was answered well,
-- and not only because an answer was ignored.
function verification.good(step)
  for _, name in ipairs(names) do
    local answer = step[name] and step[name].answer
    if answer == "no" or answer ~= "yes" and name ~= "revocation" then return false end
  end
  return true
end

return verification
