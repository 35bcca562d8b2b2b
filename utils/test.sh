#!/usr/bin/env bash
# Installs what the tests need, then runs them all: ruff, shellcheck, mypy, pytest.
# Options go to pytest, for example: utils/test.sh -k beam -x
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

usage() {
    cat <<'EOF'
Usage: utils/test.sh [--newest | --oldest | --transformers VERSION | --core] [PYTEST OPTIONS]

Sets up the environment (utils/install.sh), runs ruff, shellcheck, mypy (Python 3.11 and
later) and pytest, and stops at the first that fails. The shortest rounds:

  utils/test.sh -m "not recipe"     without the pipeline tests
  utils/test.sh test/attention      one folder

  --newest                the newest release of every package, in .venv-newest: which
                          packages moved since the lock, then pytest
  --oldest                the lower bounds in pyproject.toml, in .venv-oldest, then pytest
  --transformers VERSION  test/hf with Transformers 4.57 or 5.23, laid
                          over the environment's own release
  --core                  attention, decoder and search with the Python that is active,
                          torch and pytest alone (in .venv-core): for a Python that not
                          all packages support yet
EOF
}

die() {
    echo "error: $*" >&2
    exit 1
}

enter() { # enter FOLDER: its interpreter first on PATH
    export VIRTUAL_ENV=$1 PATH=$1/bin:$PATH
    export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUTF8=1
}

moved() { # prints each package whose version is not the locked one
    python3 - <<'EOF'
import re
from importlib.metadata import distributions
from pathlib import Path

locked = {}
for line in Path("utils/lock/environment.txt").read_text().splitlines():
    if match := re.match(r"([a-z0-9-]+)==(\S+)", line):
        locked.setdefault(match[1], set()).add(match[2])
lines = []
for found in distributions():
    name = re.sub(r"[-_.]+", "-", found.name).lower()
    if name in locked and found.version not in locked[name]:
        lines.append(f"  {name:28} {' or '.join(sorted(locked[name])):20} {found.version}")
    elif name not in locked and name not in ("espnet-mtla", "pip", "uv"):
        lines.append(f"  {name:28} {'-':20} {found.version}")
print(f"test: {len(lines)} packages differ from the lock")
print("\n".join([f"  {'package':28} {'locked':20} here", *sorted(lines)]))
EOF
}

run_pytest() { # a file's tests stay together, since they share what was expensive to make
    echo "test: pytest"
    exec python3 -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
        --no-loadscope-reorder "$@"
}

test_versions() { # test_versions newest|oldest [PYTEST OPTION ...]
    local versions=$1
    shift
    utils/install.sh --versions "$versions"
    enter "$ROOT/.venv-$versions"
    moved
    run_pytest "$@"
}

test_transformers() { # test_transformers VERSION [PYTEST OPTION ...]
    local version=$1
    shift
    utils/install.sh --transformers "$version"
    # shellcheck source=egs2/TEMPLATE/path.sh
    . egs2/TEMPLATE/path.sh
    PYTHONPATH=$(python3 -c "import sys; print(sys.prefix)")/transformers-$version:$PYTHONPATH
    python3 -c "import sys, transformers
print('test: pytest with Transformers', transformers.__version__)
sys.exit(not transformers.__version__.startswith('$version.'))" ||
        die "--transformers $version: it needs another Python than $(python3 -V)"
    exec python3 -m pytest --numprocesses auto --maxprocesses 4 test/hf "$@"
}

test_core() {
    local env=$ROOT/.venv-core
    [ -x "$env/bin/python3" ] || python3 -m venv "$env"
    enter "$env"
    python3 -m pip install --quiet --disable-pip-version-check torch numpy pytest hypothesis \
        pytest-xdist
    echo "test: pytest with $(python3 -V) and torch $(python3 -c 'import torch; print(torch.__version__)')"
    run_pytest test/attention test/decoder test/search \
        --ignore test/attention/test_peer.py "$@" # it needs the mtla package
}

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a process a core does more than two threads
case "${1:-}" in
    -h | --help)
        usage
        exit 0
        ;;
    --newest | --oldest) test_versions "${1#--}" "${@:2}" ;;
    --core) test_core "${@:2}" ;;
    --transformers)
        [ $# -ge 2 ] || die "--transformers needs a value (see --help)"
        test_transformers "${@:2}"
        ;;
esac

utils/install.sh
# shellcheck source=egs2/TEMPLATE/path.sh
. egs2/TEMPLATE/path.sh

echo "test: ruff"
ruff check .
ruff format --check .

echo "test: shellcheck"
git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run |
    xargs -0 shellcheck --external-sources

if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "test: mypy"
    mypy
else # the last NumPy and Transformers for Python 3.10 declare other types
    echo "test: mypy left out, it needs Python 3.11 or later"
fi

run_pytest "$@"
