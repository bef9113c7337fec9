-- Runs busted on the interpreter that runs this file: the busted command would start another process,
-- behind which a crash does not show.
require "busted.runner" ({ standalone = false })
