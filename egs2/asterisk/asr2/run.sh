#!/usr/bin/env bash
# The telephone prompts of ../asr1 on the frozen encoder of Whisper base; README.md says more.
#   ./run.sh --frontend_model DIR      # Whisper's folder, where there is no hub
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Whisper's features are computed once. The encoder on them is trained with CTC, then the
# decoders on top of it, side by side.
exec ../../TEMPLATE/pipeline.sh \
    --test_sets "test_combinations test_sentences" \
    --max_seconds 15 \
    --feats_type ssl \
    --token_type char \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --nbest 5 \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --use_lm true --lm_train_text data/lm_text \
    --decode_configs "../../../conf/decode/beam10.yaml ../../../conf/decode/beam10_ctc03.yaml conf/decode_lm.yaml" \
    --readme README.md \
    -- "$@"
