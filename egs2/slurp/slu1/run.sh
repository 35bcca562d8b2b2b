#!/usr/bin/env bash
# SLURP: commands spoken to a home assistant, to intent and words; README.md says more.
#   ./run.sh --local_data_opts "--corpus DIR"    # DIR holds dataset/slurp and audio
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/pipeline.sh \
    --task slu \
    --train_set train --valid_set devel --test_sets "devel test" \
    --audio_format flac.ark \
    --token_type word \
    --train_config conf/train.yaml \
    --allow_unk true \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --baselines majority \
    --nbest 10 \
    --readme README.md \
    -- "$@"
