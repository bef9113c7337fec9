-- The ten steps of a connection, in order. Traces, timings, limits, errors, the command-line tool and
-- the manual all take the names from here.
--
--   steps[3] == "client_hello"    steps.index.client_hello == 3    steps.about.client_hello: one line

local steps = {
  "dns", "tcp", "client_hello", "server_hello", "verify",
  "key_exchange", "session_keys", "finished", "data", "close",
}

steps.about = {
  dns = "the host's name becomes addresses, both families at once",
  tcp = "the addresses are raced, one connection wins",
  client_hello = "the client says what it offers",
  server_hello = "the server chooses and shows its certificates",
  verify = "issuer, dates, revocation and name are checked, each by itself",
  key_exchange = "both sides agree on a secret, the server proves its key",
  session_keys = "the keys of the session are made of the secret",
  finished = "each side confirms all that was said",
  data = "the program's bytes go both ways",
  close = "each side says that it has ended",
}

steps.index = {}
for index = 1, #steps do steps.index[steps[index]] = index end

return steps
