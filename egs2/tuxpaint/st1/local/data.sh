#!/usr/bin/env bash
# Makes data/{train,valid,test_pictures,test_recordings}; called in the recipe's folder by
# the pipeline's stage 1. The data is that of slu1, with the same options.
set -euo pipefail
exec python3 ../slu1/local/prepare.py "$@"
