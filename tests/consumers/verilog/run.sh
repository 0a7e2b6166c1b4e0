#!/bin/sh
# Run the requantizer on every case of a suite under Icarus Verilog:
#     run.sh SUITE_DIR OUT_DIR [options of iverilog, such as -DPLANT_ZERO]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
suite=$1 out=$2
shift 2
mkdir -p "$out"
iverilog -g2012 -Wall "$@" -o "$out/requantizer.vvp" "$here/requantizer_tb.v" "$here/requantizer.v"
for folder in "$suite"/*/; do
    case=$(basename "$folder")
    mkdir -p "$out/$case"
    vvp -n "$out/requantizer.vvp" +case="$folder" +out="$out/$case" +rows="$(grep -c . "$folder/x.hex")" \
        | grep DONE >/dev/null || { echo "$case: the bench did not end in DONE" >&2; exit 1; }
done
