#!/usr/bin/env bash
# XSum: a news article to one sentence; README.md says more.
#   ./run.sh                                     # the texts come from the hub
#   ./run.sh --local_data_opts "--corpus DIR"    # or from a local copy of them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/pipeline.sh \
    --task sum \
    --train_set train --valid_set validation --test_sets test \
    --source_text text.source \
    --token_type bpe --nbpe 30000 \
    --train_config conf/train.yaml \
    --allow_unk true \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --baselines first_sentence \
    --nbest 10 \
    --readme README.md \
    -- "$@"
