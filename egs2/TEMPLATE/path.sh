# shellcheck shell=bash
# Sourced. Puts an environment that can run the recipes on PATH, installing one the first
# time, and the checkout's own package before any installed one. Sets ROOT.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

can_run_recipes() { # can_run_recipes PYTHON
    "$1" -c 'import sys
from importlib.util import find_spec
sys.exit(any(find_spec(name) is None for name in sys.argv[1:]))' \
        torch torchaudio espnet2 sentencepiece soundfile soxr tensorboard matplotlib yaml \
        sacrebleu rouge_score safetensors huggingface_hub jiwer rapidfuzz kaldiio \
        >/dev/null 2>&1
}

enter_environment() { # the active one, the checkout's own, or whatever python3 is
    local folder
    for folder in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}" "$ROOT/.venv"; do
        if [ -n "$folder" ] && can_run_recipes "$folder/bin/python3"; then
            export PATH="$folder/bin:$PATH"
            return
        fi
    done
    can_run_recipes python3
}

if ! enter_environment; then
    "$ROOT/utils/install.sh" || exit 1
    if ! enter_environment; then
        echo "error: the environment cannot run the recipes: utils/install.sh --force" >&2
        exit 1
    fi
fi
unset -f can_run_recipes enter_environment

export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUTF8=1  # tables are UTF-8, whatever the locale
