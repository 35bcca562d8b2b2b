"""No call of a speech model, its processor or ``Speech2Text`` drops a keyword."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from espnet_mtla import Speech2Text
from espnet_mtla.errors import UserError
from espnet_mtla.hf.speech import MTLAForSpeechSeq2Seq, MTLASpeechProcessor
from test.support.tiny_experiment import FS

MADE_UP = ("made_up", "cache", "past_key_values", "mask")
REFUSED = (UserError, TypeError)


@pytest.fixture(scope="module")
def parts(packed):
    model = MTLAForSpeechSeq2Seq.from_packed(packed)
    processor = MTLASpeechProcessor.from_packed(packed)
    return model, processor, Speech2Text.from_pretrained(packed, device="cpu")


@pytest.mark.parametrize("made_up", MADE_UP)
def test_no_call_drops_a_keyword(parts, packed, made_up: str) -> None:
    model, processor, speech2text = parts
    sound, ids = np.zeros(FS, np.float32), torch.tensor([3, 4])
    samples = torch.from_numpy(sound)[None]
    calls = [
        lambda **more: model(samples, decoder_input_ids=ids[None], **more),
        lambda **more: model.generate(samples, **more),
        lambda **more: processor(sound, sampling_rate=FS, **more),
        lambda **more: processor.decode(ids, **more),
        lambda **more: processor.batch_decode(ids[None], **more),
        lambda **more: processor.tokenizer.decode(ids, **more),
        lambda **more: processor.tokenizer.tokenize("ab", **more),
        lambda **more: processor.tokenizer("ab", **more),
        lambda **more: speech2text(sound, FS, **more),
        lambda **more: Speech2Text.from_pretrained(packed, device="cpu", **more),
        lambda **more: MTLAForSpeechSeq2Seq.from_packed(packed, **more),
        lambda **more: MTLASpeechProcessor.from_packed(packed, **more),
    ]
    for number, call in enumerate(calls):
        for value in (1, None):
            with pytest.raises(REFUSED, match=made_up):
                call(**{made_up: value})
                pytest.fail(f"call {number} drops {made_up}={value}")


def test_what_the_processor_is_asked_for_is_done(parts) -> None:
    _, processor, _ = parts
    last = len(processor.tokenizer) - 1
    ids = torch.tensor([[3, 4, last]])
    plain = processor.batch_decode(ids)
    assert processor.batch_decode(ids, skip_special_tokens=True) == plain
    (shown,) = processor.batch_decode(ids, skip_special_tokens=False)
    assert shown != plain[0] and processor.tokenizer.token_list[last] in shown
    assert processor.decode(ids[0], clean_up_tokenization_spaces=False) == plain[0]
    with pytest.raises(UserError, match="clean_up_tokenization_spaces: True given"):
        processor.decode(ids[0], clean_up_tokenization_spaces=True)
