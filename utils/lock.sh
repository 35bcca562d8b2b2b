#!/usr/bin/env bash
# Makes the lock files anew: exact versions and hashes of everything that utils/install.sh
# installs, for every supported Python and platform at once.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case "${1:-}" in
    -h | --help)
        cat <<'EOF'
Usage: utils/lock.sh [--upgrade | --upgrade-package NAME ...]

Writes utils/lock/{environment,docs,build,installer,transformers-*}.txt from pyproject.toml and
utils/lock/{overrides,excluded}.txt. Versions that stand in these files stay as they are
while they fit; --upgrade takes the newest of everything, --upgrade-package of one package.
Run utils/test.sh afterwards, and commit the files with what had to change.
EOF
        exit 0
        ;;
esac

cd "$ROOT"
OLDEST=3.10 # the oldest supported Python; newer ones get entries of their own where needed

# compile OUTPUT [OPTION ...]: requirements on standard input or named by options
compile() {
    local output=$1
    shift
    uv pip compile --quiet --universal --python-version "$OLDEST" --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --output-file "$output" "$@"
}

command -v uv >/dev/null || {
    echo "error: uv is needed to make lock files: pip install uv" >&2
    exit 1
}
lock=utils/lock
compile $lock/environment.txt pyproject.toml \
    --extra recipes --extra hf --extra lora --extra ssl --extra dev \
    --overrides $lock/overrides.txt --excludes $lock/excluded.txt "$@"
# The documentation's own environment, which needs no PyTorch.
compile $lock/docs.txt --group docs "$@"
# What source distributions are built with, and the installer itself.
printf '%s\n' "setuptools>=77.0.3" wheel | compile $lock/build.txt "$@" -
echo uv | compile $lock/installer.txt "$@" -
# Other releases of Transformers that are tested, laid over the environment's own.
# 4.57 alone needs an older hub and tokenizers than the rest does.
compile $lock/transformers-4.57.txt --no-deps "$@" - <<'EOF'
transformers==4.57.6
huggingface-hub==0.36.2
tokenizers==0.22.2
EOF
echo "transformers==5.23.0 ; python_version >= '3.11'" | compile $lock/transformers-5.23.txt --no-deps "$@" -
echo "lock: $(grep -c '==' $lock/environment.txt) versions in $lock/environment.txt"
