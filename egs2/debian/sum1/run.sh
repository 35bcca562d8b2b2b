#!/usr/bin/env bash
# Package descriptions to one-line synopses, text to text; README.md says more.
#   ./run.sh --local_data_opts "--num_train 0"     # all of the packages
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/pipeline.sh \
    --task sum --source_text text.source --max_words 24 \
    --local_data_opts "--num_train 40000" \
    --token_type bpe --nbpe 2000 --allow_unk true \
    --train_config conf/train.yaml \
    --nbest 3 \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --baselines first_sentence \
    --readme README.md \
    -- "$@"
