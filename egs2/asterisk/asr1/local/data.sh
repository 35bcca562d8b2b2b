#!/usr/bin/env bash
# Stage 1 of this recipe: sound and transcripts to data/SET.
set -euo pipefail
exec python3 local/prepare.py "$@"
