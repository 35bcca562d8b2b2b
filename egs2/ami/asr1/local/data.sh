#!/usr/bin/env bash
# Stage 1 of this recipe: the corpus folder to data/SET_MIC.
set -euo pipefail
exec python3 local/prepare.py "$@"
