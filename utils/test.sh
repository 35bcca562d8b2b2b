#!/usr/bin/env bash
# Installs what the tests need, then runs them all: ruff, shellcheck, pytest.
# Options go to pytest, for example: utils/test.sh -k beam -x
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PEER=0.3.2 # the release of the mtla package that the attention is compared with

case "${1:-}" in
    -h | --help)
        cat <<'EOF'
Usage: utils/test.sh [PYTEST OPTIONS]

Sets up the environment (utils/install.sh with the parts recipes and dev), then runs ruff,
shellcheck and pytest, and stops at the first that fails. The shortest rounds:

  utils/test.sh -m "not recipe"     without the pipeline tests
  utils/test.sh test/attention      one folder
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

echo "test: ruff"
ruff check .
ruff format --check .

echo "test: shellcheck"
git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run |
    xargs -0 shellcheck --external-sources

echo "test: pytest"
# One thread is faster for the small tensors of the tests: a process a core does more. A
# file's tests stay together, since they share what was expensive to make.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec python3 -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
    --no-loadscope-reorder "$@"
