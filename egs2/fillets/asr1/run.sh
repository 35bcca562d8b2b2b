#!/usr/bin/env bash
# Lines of a game, spoken in Czech and Dutch, on the frozen encoder of Whisper base;
# README.md says more.
#   ./run.sh --frontend_model DIR      # Whisper's folder, where there is no hub
#   ./run.sh --languages nl            # Dutch alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Whisper's features are computed once. The encoder on them is trained with CTC, then the
# decoders on top of it, side by side.
exec ../../TEMPLATE/pipeline.sh \
    --option "languages=cs nl # languages spoken: cs, nl or both" \
    --test_sets "test_{languages}" \
    --channel mean \
    --min_seconds 0.3 --max_seconds 20 \
    --feats_type ssl \
    --token_type bpe --nbpe 300 \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --decode_configs "../../../conf/decode/beam10.yaml conf/decode_ctc.yaml" \
    --readme README.md \
    -- "$@"
