#!/bin/sh
# test.sh FOLDER "LUAS" SPEC...: runs each spec file on each interpreter, in a process of its own, JOBS at
# a time, and ends with the line "N passed, N failed[, N skipped]". What cannot be counted, a crash, a
# hang, a file without a test, counts as failed. Results are left in FOLDER.
#   MODULES    the folder of the built module (default: build/LUA)
#   SANITIZE, VALGRIND   set: under the sanitizers' libraries, under valgrind
folder=$1 luas=$2
shift 2
rm -rf "$folder"
mkdir -p "$folder"
export PATH="$PATH:/usr/sbin:/sbin"
export FOLDER="$folder" MODULES

specs=$(find "$@" -name '*_spec.lua' | sort)
for lua in $luas; do
  for spec in $specs; do printf '%s %s\n' "$lua" "$spec"; done
done >"$folder/jobs"

# The longest files first, so that none is left to run alone at the end.
long="allocation_spec\|/interop/"
{ grep "$long" "$folder/jobs"; grep -v "$long" "$folder/jobs"; } |
  xargs -P "${JOBS:-2}" -L 1 sh spec/support/test-one.sh </dev/stdin

expected=$(wc -l <"$folder/jobs")
cat "$folder"/*.count 2>/dev/null | awk -v expected="$expected" '
  { passed += $1; failed += $2; skipped += $3; files++ }
  END {
    if (expected == 0) { print "no spec file found"; failed++ }
    if (files < expected) { print expected - files " spec files gave no result"; failed += expected - files }
    line = passed + 0 " passed, " failed + 0 " failed"
    if (skipped) line = line ", " skipped " skipped"
    print line
    exit failed > 0
  }' >"$folder/summary"
code=$?
# What failed stands once more at the end, where a log that was cut short still has it.
awk '$2 > 0 { print FILENAME }' "$folder"/*.count 2>/dev/null | while read -r count; do
  printf '%s:\n' "$(basename "$count" .count)"
  tail -n 40 "${count%.count}.log" | cut -c 1-300
done >"$folder/failures"
cat "$folder/failures" "$folder/summary"
exit $code
