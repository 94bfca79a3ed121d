#!/usr/bin/env bash
# Does everything that needs a GPU, in one call and under 8 minutes:
#
#   bench/gpu.sh OUT
#
# The script builds the libraries with the machine's own tools, or takes those that are in pydrift/. It runs the GPU
# tests, the sanitizer on small shapes, and all benchmarks with their peers. Every step has a time limit, and a step that
# fails does not stop the others. OUT gets table.txt (device, versions, clocks, outcomes, results), log.txt (the output
# of every step) and the JSON files of the benchmarks. The exit code is 0 where every step passed.
#
# Variables: PYTHON (default python3, with torch), PYDRIFT_COMMIT (where the tree has no history), LIMIT_S (default 465).
set -uo pipefail

if [ $# -ne 1 ]; then
  echo "usage: bench/gpu.sh OUT" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
limit_s=${LIMIT_S:-465}
log=$out/log.txt
table=$out/table.txt
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
failed=0
: >"$log"
: >"$table"

say() { printf '%s\n' "$*" | tee -a "$table"; }

# step NAME SECONDS COMMAND...: runs the command within its time limit, and within the time left for the whole.
step() {
  local name=$1 seconds=$2 left start=$SECONDS code
  shift 2
  left=$((limit_s - SECONDS))
  if [ "$left" -lt 5 ]; then
    say "$(printf 'NOT RUN %-34s no time left' "$name")"
    failed=1
    return 1
  fi
  if [ "$seconds" -gt "$left" ]; then seconds=$left; fi
  printf '\n==== %s: %s\n' "$name" "$*" >>"$log"
  timeout --kill-after=5 "$seconds" "$@" </dev/null >"$scratch/step" 2>&1
  code=$?
  cat "$scratch/step" >>"$log"
  case $code in
    0) say "$(printf 'passed  %-34s %4d s' "$name" $((SECONDS - start)))" ;;
    124 | 137) say "$(printf 'FAILED  %-34s %4d s: stopped at its limit' "$name" $((SECONDS - start)))" ;;
    *) say "$(printf 'FAILED  %-34s %4d s: exit code %d, the end of its output:' "$name" $((SECONDS - start)) "$code")" ;;
  esac
  if [ "$code" -ne 0 ]; then
    failed=1
    tail -n 12 "$scratch/step" | sed 's/^/        | /' | tee -a "$table"
  fi
  return "$code"
}

have() { command -v "$1" >/dev/null 2>&1; }
importable() { "$python" -c "import $1" >/dev/null 2>&1; }

# ---- The machine

say "commit  ${PYDRIFT_COMMIT:=$(git describe --always --dirty 2>/dev/null || echo unknown)}"
export PYDRIFT_COMMIT
say "date    $(date -u +%Y-%m-%dT%H:%MZ)"
if ! have "$python"; then
  say "bench/gpu.sh: there is no $python here"
  exit 1
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >>"$log" 2>&1; then
  say "bench/gpu.sh: there is no CUDA device here, or $python has no torch that sees one; nothing was run"
  exit 1
fi
clocks() {
  nvidia-smi --format=csv,noheader --query-gpu=clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw,power.limit
}
"$python" - <<'END' | tee -a "$table"
import platform, torch
device = torch.cuda.get_device_properties(0)
print(f"device  {device.name}, compute capability {device.major}.{device.minor}, {device.multi_processor_count} SMs, "
      f"{device.total_memory / 2**30:.0f} GiB")
print(f"python  {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
END
if have nvidia-smi; then
  say "driver  $(nvidia-smi --format=csv,noheader --query-gpu=driver_version | head -n 1)"
  say "clocks  (SM now, SM at most, memory, temperature, power, limit) before: $(clocks | head -n 1)"
fi
if have nvcc; then say "nvcc    $(nvcc --version | grep release)"; fi

# ---- The libraries. The tree need not be installed. It is imported from here, with the version in pyproject.toml.

export PYTHONPATH=$PWD:$scratch/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=$scratch/inductor
if ! "$python" -c 'import importlib.metadata as m; m.version("pydrift")' 2>/dev/null; then
  version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
  mkdir -p "$scratch/site/pydrift-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: pydrift\nVersion: %s\n' "$version" \
    >"$scratch/site/pydrift-$version.dist-info/METADATA"
fi
capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
built=carried
if have nvcc && have cmake && have ninja && have c++ && importable pybind11 && importable setuptools; then
  if step "build for sm_$capability" 150 env CUDAARCHS="$capability" PYDRIFT_NATIVE=1 PYDRIFT_CUDA=1 \
    "$python" setup.py -q build_ext --inplace; then
    built="built here"
  fi
else
  say "no build: nvcc, cmake, ninja, c++, pybind11 and setuptools are not all here; the carried libraries are used"
fi
for library in pydrift/libpydrift_cpu.so pydrift/libpydrift_cuda.so; do
  if [ -e "$library" ]; then say "$built  $(sha256sum "$library" | cut -c 1-16)  $library"; fi
done
step "both libraries load" 60 "$python" -c '
from pydrift.ops import native_status
status = native_status()
print(status)
raise SystemExit(not (status.cpu and status.cuda))'

# ---- Tests

if importable pytest; then
  step "tests on the GPU" 100 "$python" -m pytest -q -p no:cacheprovider -k cuda \
    --ignore tests/ops/test_native_build.py tests
  tail -n 1 "$scratch/step" | sed 's/^/        /' | tee -a "$table"
else
  say "FAILED  tests: pytest is not installed; only the benchmarks check results"
  failed=1
fi

# ---- Benchmarks, the short forms of all first

mkdir -p "$scratch/inductor"
: >"$scratch/results"
if step "ascent_update" 60 "$python" -m bench.inversion.ascent_update --quick --device cuda \
  --json "$out/ascent_update.json"; then
  cat "$scratch/step" >>"$scratch/results"
fi
step "invert, all, quick" 170 "$python" -m bench.inversion.invert --quick --device cuda \
  --json "$out/invert_quick.json"
cat "$scratch/step" >>"$scratch/results" # even where it was stopped, because finished workloads count
step "shadows, all, quick" 120 "$python" -m bench.shadows.speed --quick --device cuda \
  --json "$out/shadow_quick.json"
cat "$scratch/step" >>"$scratch/results"

# ---- Sanitizer, on odd shapes and few restarts

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    step "compute-sanitizer $tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$python" -m bench.common.odd_shapes
  done
else
  say "FAILED  compute-sanitizer is not installed"
  failed=1
fi

# ---- The long forms, as far as the time allows

for workload in w5 w4; do
  step "shadows, $workload" 90 "$python" -m bench.shadows.speed --workload "$workload" --device cuda \
    --json "$out/shadow_$workload.json"
  cat "$scratch/step" >>"$scratch/results"
done
for workload in w1 w2 w2c; do
  step "invert, $workload" 120 "$python" -m bench.inversion.invert --workload "$workload" --device cuda \
    --json "$out/invert_$workload.json"
  cat "$scratch/step" >>"$scratch/results"
done

if have nvidia-smi; then say "clocks  after: $(clocks | head -n 1)"; fi
say ""
cat "$scratch/results" | tee -a "$table"
say ""
if [ "$failed" -eq 0 ]; then
  say "all steps passed in $SECONDS s"
else
  say "not all steps passed; $SECONDS s"
fi
exit "$failed"
