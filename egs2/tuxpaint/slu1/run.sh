#!/usr/bin/env bash
# Captions of pictures, spoken in eight languages, to the class of the picture and the
# words; README.md says more.
#   ./run.sh --local_data_opts "--languages es fr"     # be bg ca el es fr ro ru are all
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The encoder learns the words spoken, by CTC; the decoders are trained on top of it, side
# by side, since the model is too small for several threads to pay.
exec ../../TEMPLATE/pipeline.sh \
    --task slu --target_text text.intent --source_text text.spoken \
    --test_sets "test_pictures test_recordings" \
    --channel mean \
    --min_seconds 0.3 --max_seconds 8 \
    --token_type char --allow_unk true \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --average_metric valid.acc_intent.max --nbest 3 \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --baselines majority \
    --readme README.md \
    -- "$@"
