#!/bin/sh
# Replays every fuzz target's corpus, and bounded mutations of it: tests/fuzz/corpus/X goes through fuzz_X. SK_FUZZ is the folder of the programs.
failed=0
for program in "$SK_FUZZ"/fuzz_*; do
    case $program in *.o | *.log | *.trs) continue ;; esac
    name=${program##*/fuzz_}
    printf '%s: ' "$name"
    "$program" "$SK_SRCDIR/tests/fuzz/corpus/$name" || { echo "FAILED"; failed=1; }
done
exit $failed
