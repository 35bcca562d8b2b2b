#!/usr/bin/env bash
# AMI meetings, recorded by headsets or from the table; README.md says more.
#   ./run.sh --local_data_opts "--corpus DIR"               # DIR holds amicorpus
#   ./run.sh --mic sdm1 --local_data_opts "--corpus DIR"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/pipeline.sh \
    --option "mic=ihm # microphones: ihm, sdm1 or mdm8" \
    --train_set "train_{mic}" --valid_set "dev_{mic}" --test_sets "dev_{mic} eval_{mic}" \
    --speed_factors "0.9 1.0 1.1" \
    --audio_format flac.ark \
    --token_type bpe --nbpe 100 \
    --train_config conf/train.yaml \
    --allow_unk true \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --nbest 10 \
    --readme README.md \
    -- "$@"
