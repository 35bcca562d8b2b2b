#!/usr/bin/env bash
# Recorded telephone prompts, from nothing to a table of results; README.md says more.
# Data preparation takes options too: --local_data_opts "--corpus DIR --languages en fr".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The recordings have 8 kHz: more would store nothing but silence above them. Decoding
# without CTC measures the decoder, which is what attention types differ in. The model is
# too small for several threads to pay: two trainings side by side do.
exec ../../TEMPLATE/pipeline.sh \
    --test_sets "test_combinations test_sentences" \
    --fs 8000 \
    --max_seconds 15 \
    --token_type bpe --nbpe 150 \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --nbest 10 \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --decode_configs "../../../conf/decode/beam10.yaml ../../../conf/decode/beam10_ctc03.yaml" \
    --readme README.md \
    -- "$@"
