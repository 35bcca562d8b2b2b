#!/usr/bin/env bash
# Installs what the tests need, then runs them all: ruff, shellcheck, pytest.
# Options go to pytest, for example: utils/test.sh -k beam -x
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PEER=0.3.2 # the release of the mtla package that the attention is compared with
# The last of Transformers 4, with what it alone needs older than the rest does.
LAST4=(transformers==4.57.6 huggingface-hub==0.36.2 tokenizers==0.22.2)

case "${1:-}" in
    -h | --help)
        cat <<'EOF'
Usage: utils/test.sh [--transformers4] [PYTEST OPTIONS]

Sets up the environment (utils/install.sh with the parts recipes and dev), then runs ruff,
shellcheck and pytest, and stops at the first that fails. The shortest rounds:

  utils/test.sh -m "not recipe"     without the pipeline tests
  utils/test.sh test/attention      one folder

--transformers4: what belongs to Transformers alone, with the last release of 4.x, which is
put into a folder beside the installed one.
EOF
        exit 0
        ;;
esac

cd "$ROOT"
utils/install.sh --extras "recipes dev"
# shellcheck source=egs2/TEMPLATE/path.sh
. egs2/TEMPLATE/path.sh

if ! python3 -c "from importlib.metadata import version; assert version('mtla') == '$PEER'" \
    2>/dev/null; then
    python3 -m uv pip install --quiet --no-cache \
        --python "$(command -v python3)" --no-deps "mtla==$PEER"
fi

# One thread is faster for the small tensors of the tests: a process a core does more.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ "${1:-}" = --transformers4 ]; then
    shift
    folder=$(python3 -c "import sys; print(sys.prefix)")/transformers4
    python3 -m uv pip install --quiet --no-cache --python "$(command -v python3)" \
        --no-deps --target "$folder" "${LAST4[@]}"
    echo "test: pytest with ${LAST4[*]}"
    PYTHONPATH=$folder:${PYTHONPATH:-} exec python3 -m pytest test/hf test/hf_speech "$@"
fi

echo "test: ruff"
ruff check .
ruff format --check .

echo "test: shellcheck"
git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run |
    xargs -0 shellcheck --external-sources

echo "test: pytest"
# A file's tests stay together, since they share what was expensive to make.
exec python3 -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
    --no-loadscope-reorder "$@"
