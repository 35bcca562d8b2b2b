#!/usr/bin/env bash
# Lines of a game: Dutch and Czech speech to English text, or any other pair; README.md
# says more.
#   ./run.sh --pairs "cs-de"      # spoken cs, nl; written bg cs de en es fr it nl pl ru sv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Whisper's features are computed once, without weights in the checkpoints. The encoder on
# them learns the words spoken, by CTC; the decoders learn to translate on top of it.
exec ../../TEMPLATE/pipeline.sh \
    --option "pairs=nl-en cs-en # languages spoken and written, one pair for each spoken" \
    --task st --source_text text.spoken \
    --test_sets "test_{pairs}" \
    --channel mean \
    --min_seconds 0.3 --max_seconds 20 \
    --feats_type ssl \
    --token_type bpe --nbpe 500 --allow_unk true \
    --train_config conf/train.yaml \
    --encoder_config conf/encoder.yaml \
    --threads 1 --train_jobs 2 \
    --attention "mha mtla_s2" \
    --decode_configs conf/decode.yaml \
    --readme README.md \
    -- "$@"
