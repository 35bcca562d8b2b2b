#!/usr/bin/env bash
# Makes data/{train,valid,test_PAIR} with text (the translation) and text.spoken; called in
# the recipe's folder by the pipeline's stage 1.
set -euo pipefail
# The packages are read, and lines divided, as there.
export PYTHONPATH="../asr1/local${PYTHONPATH:+:$PYTHONPATH}"
exec python3 local/translate.py "$@"
