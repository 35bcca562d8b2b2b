#!/usr/bin/env bash
# Makes data/{train,valid,test_combinations,test_sentences} and data/lm_text; called in the
# recipe's folder by the pipeline's stage 1.
set -euo pipefail
# The sets of ../asr1 with fewer combinations: a pretrained encoder needs fewer.
python3 ../asr1/local/prepare.py --train_combinations 1000 "$@"
python3 local/general_text.py "$@"
