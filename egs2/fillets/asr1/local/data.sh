#!/usr/bin/env bash
# Makes data/{train,valid,test_cs,test_nl}; called in the recipe's folder by the pipeline's
# stage 1.
set -euo pipefail
exec python3 local/prepare.py "$@"
