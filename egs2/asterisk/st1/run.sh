#!/usr/bin/env bash
# Speech translation of recorded telephone prompts; README.md says more.
#   ./run.sh --pair en-es      # also fr, it, ru, in any direction
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The encoder learns the words spoken, by CTC; the decoders then learn to translate on
# top of it. Side by side, since the model is too small for several threads to pay.
exec ../../TEMPLATE/pipeline.sh \
    --option "pair=en-fr # spoken language and language of the text: en es fr it ru" \
    --task st --source_text text.spoken \
    --test_sets "test_combinations test_sentences" \
    --fs 8000 \
    --max_seconds 15 \
    --token_type bpe --nbpe 300 \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --nbest 10 \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --decode_configs ../../../conf/decode/beam10.yaml \
    --baselines most_frequent \
    --readme README.md \
    -- "$@"
