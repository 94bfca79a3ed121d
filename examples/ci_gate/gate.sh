#!/usr/bin/env bash
# A gate for candidates: examples/ci_gate/gate.sh CALIBRATION CANDIDATE OUT [options of pydrift audit]
#
# Leaves OUT/report.html and OUT/report.json, and prints one line. The exit code is that of the audit: 0 stable,
# 1 drift, 3 inconclusive, others are failures. Set ALLOW_INCONCLUSIVE=1 to let inconclusive candidates pass.
set -uo pipefail

if [ $# -lt 3 ]; then
  echo "usage: $0 CALIBRATION CANDIDATE OUT [options of pydrift audit]" >&2
  exit 2
fi
calibration=$1 candidate=$2 out=$3
shift 3

pydrift audit "$calibration" "$candidate" --out "$out" --json --no-images "$@" >"$out.json"
code=$?

case $code in
  0) echo "$candidate: stable" ;;
  1) echo "$candidate: drift, see $out/report.html" ;;
  3)
    echo "$candidate: inconclusive, see $out/report.html"
    if [ "${ALLOW_INCONCLUSIVE:-0}" = 1 ]; then code=0; fi
    ;;
  *) echo "$candidate: the audit failed with exit code $code" >&2 ;;
esac
exit "$code"
