#!/usr/bin/env bash
# Builds the documentation into site/, and fails at a broken link or a missing docstring.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

case "${1:-}" in
    -h | --help)
        cat <<'EOF'
Usage: utils/docs.sh [build | serve] [MKDOCS OPTIONS]

Installs MkDocs with the versions of utils/lock/docs.txt into .venv-docs, and builds the
pages of docs/ into site/ (build, the default) or serves them on this machine (serve).
The package itself is read as source: PyTorch is not needed.
EOF
        exit 0
        ;;
    build | serve) action=$1 && shift ;;
    "" | -*) action=build ;;
    *) echo "error: '$1' is neither build nor serve (see --help)" >&2 && exit 1 ;;
esac

env=$ROOT/.venv-docs
lock=$ROOT/utils/lock/docs.txt
[ -x "$env/bin/python3" ] || python3 -m venv "$env"
if ! cmp -s "$lock" "$env/installed.txt"; then
    "$env/bin/python3" -m pip install --quiet --disable-pip-version-check \
        --require-hashes -r "$lock"
    cp "$lock" "$env/installed.txt"
fi
exec "$env/bin/python3" -m mkdocs "$action" --strict "$@"
