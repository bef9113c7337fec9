#!/bin/sh
# test-one.sh LUA SPEC: one spec file on one interpreter; see test.sh, which sets FOLDER.
lua=$1 spec=$2
FOLDER=${FOLDER:-build/test}
case $FOLDER in /*) ;; *) FOLDER=$PWD/$FOLDER ;; esac
mkdir -p "$FOLDER"
out=$FOLDER/$lua-$(echo "${spec%.lua}" | tr / -)
modules=${MODULES:-build/$lua}
export LUA_PATH="$PWD/lua/?.lua;;" LUA_CPATH="$PWD/$modules/?.so;;"
unset LUA_INIT LUA_PATH_5_2 LUA_PATH_5_3 LUA_PATH_5_4 LUA_CPATH_5_2 LUA_CPATH_5_3 LUA_CPATH_5_4

set -- spec/support/busted.lua --output=spec/support/report.lua -Xoutput "$out.events" "$spec"
limit=600
[ -n "$SOAK" ] && limit=3600
began=$(date +%s.%N)
if [ -n "$SANITIZE" ]; then
  # GnuTLS has no frame pointers: FULL_STACKS=1 names a leak's whole way, at twenty times the time.
  case $spec in */limbo_spec.lua) FULL_STACKS=1 ;; esac # a leak of GnuTLS's own, known by its way
  log="log_path=$out.sanitizer"
  # intercept_tls_get_addr: LeakSanitizer crashes over a library that comes late and has variables of each thread.
  export ASAN_OPTIONS="$log:detect_leaks=1:intercept_tls_get_addr=0:exitcode=77${FULL_STACKS:+:fast_unwind_on_malloc=0:malloc_context_size=40}"
  export LSAN_OPTIONS="suppressions=$PWD/spec/support/leaks.txt:print_suppressions=0"
  export UBSAN_OPTIONS="$log:print_stacktrace=1"
  preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $PWD/$modules/unpreload.so"
  [ -n "$SOAK" ] || limit=1800
  # LeakSanitizer's own crash, beside a thread that is just ending, says nothing of the program, but
  # gives a process that a test has started the wrong exit code: then all is run again.
  for attempt in 1 2 3; do
    rm -f "$out".sanitizer.* "$out.events"
    timeout -k 5 $limit env LD_PRELOAD="$preload" TLSCONNECT_PRELOAD="$preload" "$lua" "$@" >"$out.log" 2>&1 </dev/null
    code=$?
    grep -qs "LeakSanitizer has encountered a fatal error" "$out".sanitizer.* || break
  done
elif [ -n "$VALGRIND" ]; then
  limit=3600
  timeout -k 5 $limit valgrind -q --error-exitcode=77 --leak-check=full --show-leak-kinds=definite \
    --errors-for-leak-kinds=definite --child-silent-after-fork=yes --log-file="$out.valgrind" \
    "$lua" "$@" >"$out.log" 2>&1 </dev/null
  code=$?
else
  timeout -k 5 $limit "$lua" "$@" >"$out.log" 2>&1 </dev/null
  code=$?
fi

# What the tools have found is a failure of its own, whatever the specs say.
for report in "$out".sanitizer.* "$out".valgrind; do
  [ -s "$report" ] || continue
  cat "$report" >>"$out.log"
  if grep -q "LeakSanitizer has encountered a fatal error" "$report" && ! grep -q "ERROR: " "$report"; then
    [ $code = 77 ] && code=0
  else
    found=1
  fi
done

touch "$out.events"
counts=$(awk -v code=$code -v found="$found" -v log_file="$out.log" '
  $1 == "begin" { open = 1; name = substr($0, 7) }
  $1 == "pass" { passed++; open = 0 }
  $1 == "fail" { failed++; open = 0 }
  $1 == "error" { failed++ }
  $1 == "skip" { skipped++; open = 0 }
  $1 == "end" { ended = 1 }
  END {
    how = code == 124 || code == 137 ? "ran out of time" : "ended with status " code
    if (open) { failed++; print how " in: " name >>log_file }
    else if (!ended) { failed++; print how " before its end" >>log_file }
    else if (found) { failed++; print "the sanitizers or valgrind have complained" >>log_file }
    else if (code != 0 && !failed) { failed++; print how " after the last test" >>log_file }
    else if (passed + failed + skipped == 0) { failed++; print "no test in it" >>log_file }
    print passed + 0, failed + 0, skipped + 0
  }' "$out.events")
echo "$counts" >"$out.count"

set -- $counts
line="$lua $spec: $1 passed, $2 failed"
[ "$3" = 0 ] || line="$line, $3 skipped"
line="$line ($(echo "$began $(date +%s.%N)" | awk '{ printf "%.1f s", $2 - $1 }'))"
# One write, so that two jobs' output is not mixed.
if [ "$2" = 0 ]; then
  echo "$line"
else
  printf '%s\n%s\n' "$line" "$(sed 's/^/    /' "$out.log")"
fi
exit 0
