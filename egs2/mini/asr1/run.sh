#!/usr/bin/env bash
# All stages in two minutes on two CPU cores: to see the road, and to debug one's changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/pipeline.sh \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --token_type bpe --nbpe 30 \
    --max_seconds 5 \
    --nbest 3 \
    --threads 1 --train_jobs 2 \
    -- "$@"
