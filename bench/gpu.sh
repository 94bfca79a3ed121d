#!/usr/bin/env bash
# Everything that needs a GPU, in one call and under 8 minutes:
#
#   bench/gpu.sh OUT
#
# Builds the libraries with the machine's own tools, or takes those that lie in pydrift/; runs the GPU tests, the
# sanitizer on small shapes, and all benchmarks with their peers. Every step has a time limit, and one that fails stops
# no other. OUT gets table.txt (device, versions, clocks, outcomes, results), log.txt (what every step printed) and the
# benchmarks' JSON files. The exit code is 0 where every step passed.
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

# step NAME SECONDS COMMAND...: runs the command within its time, and within what is left of the whole.
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

# ---- The libraries. The tree need not be installed: it is imported from here, under the version that it gives itself.

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
  say "no build: of nvcc, cmake, ninja, c++, pybind11 and setuptools not all are here; the carried libraries are used"
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
  tests=()
  for file in tests/test_*.py; do
    if [ "$file" != tests/test_native_build.py ]; then tests+=("$file"); fi
  done
  step "tests on the GPU" 100 "$python" -m pytest -q -p no:cacheprovider -k cuda "${tests[@]}"
  tail -n 1 "$scratch/step" | sed 's/^/        /' | tee -a "$table"
else
  say "FAILED  tests: pytest is not installed; what the benchmarks verify is all that is checked"
  failed=1
fi

# ---- Benchmarks, the short forms of all first

mkdir -p "$scratch/inductor"
: >"$scratch/results"
if step "bench_ascent_update" 60 "$python" bench/bench_ascent_update.py --quick --device cuda \
  --json "$out/ascent_update.json"; then
  cat "$scratch/step" >>"$scratch/results"
fi
step "bench_invert, all, quick" 170 "$python" bench/bench_invert.py --quick --device cuda --json "$out/invert_quick.json"
cat "$scratch/step" >>"$scratch/results" # also where it was stopped: what was finished counts
step "bench_shadow, all, quick" 120 "$python" bench/bench_shadow.py --quick --device cuda --json "$out/shadow_quick.json"
cat "$scratch/step" >>"$scratch/results"

# ---- Sanitizer, on odd shapes and few restarts

cat >"$scratch/small.py" <<'END'
import numpy as np
import torch
from pydrift import TrainingRecipe
from pydrift.arch import build, lower
from pydrift.ops import blind_walk, invert, min_gd, shadow_moments, shadow_statistics
from pydrift.training import native_program, train_many

for arch in ("mlp:1x9x7:33-17:5", "convnet:3x11x9:5,18:19:4"):
    shape = tuple(map(int, arch.split(":")[1].split("x")))
    model = lower(build(arch, 0), shape)
    x = torch.rand(37, *shape).cuda()
    ids = [torch.randint(0, n, (37,), dtype=torch.int32).cuda() for n in (2, 4, 9)]
    parameters = torch.stack([model.parameters()] * 2).cuda()
    invert(x, parameters, *ids, program=model.program(), seed=0, jitter=1, max_steps=3, optimizer="adam",
           learning_rate=0.05, beta1=0.9, beta2=0.999, epsilon=1e-8, tv_weight=1e-3, l2_weight=1e-3, lower=0.0,
           upper=1.0, confidence_threshold=0.9, patience=2)
    torch.cuda.synchronize()
    assert x.isfinite().all()
    image = torch.arange(37, dtype=torch.int32).cuda()
    walks = {"x": x, "parameters": parameters, "model": ids[0], "image": image, "label": ids[1], "norm": image % 3,
             "program": model.program(), "max_steps": 3}
    steps = {"linf_step": 0.02, "l2_step": 0.1, "l1_step": 0.1, "l1_coordinates": 7, "l1_gap": 0.01}
    walked = min_gd(**walks, **steps), blind_walk(directions=0.1 - x / 5, direction=image.flip(0), **walks)
    torch.cuda.synchronize()
    assert all(walk.distance.isfinite().all() for walk in walked)
    parameters = torch.stack([model.parameters()] * 5).cuda()
    statistics = shadow_statistics(x, parameters, ids[1], program=model.program())
    moments = shadow_moments(x, parameters, ids[1], torch.rand(5, 37).cuda() < 0.5, program=model.program())
    torch.cuda.synchronize()
    assert statistics.margin.isfinite().all() and moments.m2.isfinite().all()
    assert native_program(build(arch, 0), x.cpu(), x.device)
    drawn, recipe = [np.arange(37), np.arange(5)], TrainingRecipe(epochs=1, batch_size=33, augment="shift:1,flip")
    train_many([build(arch, 0), build(arch, 1)], x.cpu(), ids[1].cpu().long(), drawn, [recipe] * 2, [0, 1],
               device=x.device)
END
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -x "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    step "compute-sanitizer $tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$python" "$scratch/small.py"
  done
else
  say "FAILED  compute-sanitizer is not installed"
  failed=1
fi

# ---- The long forms, as far as the time goes

for workload in w5 w4; do
  step "bench_shadow, $workload" 90 "$python" bench/bench_shadow.py --workload "$workload" --device cuda \
    --json "$out/shadow_$workload.json"
  cat "$scratch/step" >>"$scratch/results"
done
for workload in w1 w2 w2c; do
  step "bench_invert, $workload" 120 "$python" bench/bench_invert.py --workload "$workload" --device cuda \
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
