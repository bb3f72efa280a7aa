#!/usr/bin/env bash
# Collects in a folder what a bare GPU machine without network needs to measure itself:
#
#   recipes/benchmark/gpu_bundle.sh OUT
#
# The checkout (what is committed), wheels for CPython 3.12 on x86-64, sources that are
# compiled there, a Mini-PolSESS of 200 mixtures, and run.sh, which does the rest.
# PYTHON is this project's interpreter (default: .venv/bin/python).
set -euo pipefail

[[ $# == 1 ]] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
mkdir -p "$1/wheels" "$1/sources"
out=$(cd "$1" && pwd)
cd "$root"
python=${PYTHON:-.venv/bin/python}
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

# What such a machine lacks, and what that needs; versions as in requirements.txt.
names="speechbrain torchaudio hyperpyyaml ruamel.yaml PyYAML soundfile cffi pycparser
    pystoi threadpoolctl espeakng-loader joblib sentencepiece mir_eval
    decorator jsonschema jsonschema-specifications referencing rpds-py attrs packaging
    requests urllib3 idna certifi charset-normalizer pytest-runner pytest-xdist execnet einops ninja
    cython wheel setuptools<82"
pinned=()
for name in $names; do
    pin=$(grep -io "^$name==[^ ]*" requirements.txt || true)
    pinned+=("${pin:-$name}")
done
platforms=(any linux_x86_64)
for glibc in 2_28 2_27 2_24 2_17 2_12 2_5; do
    platforms+=("manylinux_${glibc}_x86_64")
done
platforms+=(manylinux2014_x86_64 manylinux2010_x86_64 manylinux1_x86_64)

download() { "$python" -m pip download --quiet --no-deps "$@" 2>&1 | grep -v ^WARNING || true; }

download --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]/#/--platform=}" --dest "$out/wheels" "${pinned[@]}"
printf '%s\n' "${pinned[@]}" >"$out/wheels/names.txt"
missing=$((${#pinned[@]} - $(find "$out/wheels" -name '*.whl' | wc -l)))
((missing <= 0)) || { echo "error: $missing wheels could not be had" >&2; exit 1; }

# Sources: pip runs their setup.py to learn their names, which takes these tools.
"$python" -m pip install --quiet --target "$tools" wheel 'setuptools<82' packaging ninja \
    2>&1 | grep -v -e ^WARNING -e ^ERROR || true
export MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE
for name in fast_bss_eval pesq mamba-ssm causal-conv1d; do
    PYTHONPATH=$tools download --no-binary="$name" --no-build-isolation \
        --dest "$out/sources" "$name"
    compgen -G "$out/sources/${name//-/_}-*" >/dev/null || echo "without $name: not to be had"
done

[[ -d $out/repository ]] && git -C "$out/repository" pull --quiet --depth 1 --rebase ||
    git clone --quiet --depth 1 "file://$root" "$out/repository"
PYTHONPATH=$root "$python" recipes/corpus/generate.py hparams/corpus/mini_polsess.yaml \
    --output_folder="$out/MiniPolSESS" --n_train="${N_TRAIN:-160}" --n_val=20 --n_test=20
rm -rf "$out/MiniPolSESS/sources" # what mixtures were cut from

cat >"$out/run.sh" <<'EOF'
#!/usr/bin/env bash
# Tests and measures on this machine, without network:  run.sh [--tiny] [RESULTS]
#
# PYTHON (default: python3) is taken as it is where it has all that is needed; else it
# must be CPython 3.12, and a venv is made over it, with the wheels beside this script.
# It ends within MINUTES (default: 9). The same command goes on where it was.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tiny=()
[[ ${1:-} == --tiny ]] && { tiny=(--tiny); shift; }
mkdir -p "${1:-$here/results}"
results=$(cd "${1:-$here/results}" && pwd)
python=$(command -v "${PYTHON:-python3}") || { echo "error: no $PYTHON" >&2; exit 2; }
end=$(awk "BEGIN { print int($SECONDS + 60 * ${MINUTES:-9}) }")
left() { echo $((end > SECONDS ? end - SECONDS : 1)); }
cd "$here/repository" || exit 2
export PYTHONPATH=$PWD POLSESS_DATA_ROOT=$here/MiniPolSESS PIP_NO_INDEX=1
unset PIP_FIND_LINKS
install=(-m pip install --quiet --no-deps --no-build-isolation --find-links "$here/wheels")

if ! "$python" -c 'import recipes.separation.evaluate, pystoi, pytest, hypothesis' 2>/dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' ||
        { echo "error: $python lacks packages, and is not 3.12; set PYTHON" >&2; exit 2; }
    "$python" -m venv --without-pip --system-site-packages "$here/venv" || exit 2
    # A venv over a venv would not see its packages.
    "$python" -c 'import site; print(*site.getsitepackages(), sep="\n")' \
        >"$here/venv/lib/python3.12/site-packages/parent.pth"
    python=$here/venv/bin/python
    "$python" "${install[@]}" -r "$here/wheels/names.txt" || exit 2
    for name in fast_bss_eval pesq; do
        "$python" "${install[@]}" "$here/sources/$name"-*.tar.gz || echo "without $name"
    done
fi

# Of mamba_ssm only the scan of Mamba-1, for this GPU alone: its setup.py names nine.
# causal_conv1d, which takes longer, is measured nowhere.
build() {
    work=$(mktemp -d)
    for archive in "$here"/sources/{mamba_ssm,causal_conv1d}-*.tar.gz; do
        tar xzf "$archive" -C "$work" && cd "$work/$(basename "$archive" .tar.gz)" || continue
        sed -i 's/+ cc_flag//' setup.py
        sed -i '/mamba2\|mamba3\|mixer_seq/d' mamba_ssm/__init__.py 2>/dev/null
        TORCH_CUDA_ARCH_LIST=$1 MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
            CAUSAL_CONV1D_FORCE_BUILD=TRUE "$python" "${install[@]}" --verbose .
    done
}
capability='import torch; print("%d.%d" % torch.cuda.get_device_capability())'
capability=$("$python" -c "$capability" 2>/dev/null)
gpu=(${capability:+-m gpu})
building=
if [[ $capability && ! ${tiny[*]} ]] && command -v nvcc >/dev/null &&
    ! "$python" -c 'import torch, selective_scan_cuda' 2>/dev/null; then
    build "$capability" >"$results/build.txt" 2>&1 &
    building=$!
fi

measure() { # within so many seconds
    "$python" recipes/benchmark/gpu.py --output "$results/figures" ${tiny[@]+"${tiny[@]}"} \
        --minutes "$(awk "BEGIN { print $1 / 60 }")" 2>&1
}
nvidia-smi >"$results/nvidia-smi.txt" 2>&1
OMP_NUM_THREADS=3 timeout "$(left)" "$python" -m pytest -p no:cacheprovider -n 3 tests/gpu ${gpu[@]+"${gpu[@]}"} \
    >"$results/tests.txt" 2>&1
tested=$?
tail -n 20 "$results/tests.txt"
measure "$(($(left) - (building ? 60 : 0)))" | tee "$results/benchmark.txt"
measured=${PIPESTATUS[0]}
if [[ $building ]]; then
    # What waited for mamba_ssm is measured now, as is what there was no time for.
    until grep -q 'Successfully installed mamba' "$results/build.txt" || (($(left) < 50)) ||
        ! kill -0 "$building" 2>/dev/null; do sleep 1; done
    measure "$(left)" | tee -a "$results/benchmark.txt"
fi
echo "Tests: exit status $tested; figures: exit status $measured; all in $results"
exit $((tested ? tested : measured))
EOF
chmod +x "$out/run.sh"
du -sh "$out"
