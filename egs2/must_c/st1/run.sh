#!/usr/bin/env bash
# MuST-C v1.0: English talks to text in another language; README.md says more.
#   ./run.sh --local_data_opts "--corpus DIR"              # DIR holds en-de
#   ./run.sh --lang fr --local_data_opts "--corpus DIR"    # DIR holds en-fr
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/pipeline.sh \
    --option "lang=de # language of the translations: de es fr it nl pt ro ru" \
    --task st \
    --train_set "train.en-{lang}" --valid_set "dev.en-{lang}" \
    --test_sets "tst-COMMON.en-{lang} tst-HE.en-{lang}" \
    --target_text "text.tc.{lang}" --source_text text.lc.rm.en \
    --token_type unigram --nbpe 8000 \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --allow_unk true \
    --attention "mha mtla_s2 mtla_s3" \
    --decode_configs conf/decode.yaml \
    --nbest 10 --encoder_nbest 10 \
    --readme README.md \
    -- "$@"
