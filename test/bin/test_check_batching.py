import pytest

from espnet_mtla.bin import check_batching
from espnet_mtla.errors import UserError
from test.support.tiny_experiment import make_text_model, make_texts


def test_check_batching_passes(model, data, command, capsys):
    options = {"num_utts": 5, "beam_size": 3, "min_length_ratio": 0.15}
    command(check_batching, model_dir=model, data=data, **options)
    assert "5 utterances alone and 5 at a time: 0 differ" in capsys.readouterr().out


def test_a_model_of_text(tmp_path, command, capsys, monkeypatch):
    """Texts of uneven length, compared as sounds are; a leak is found there too."""
    from espnet_mtla.model.text import DecoderOnlyTextModel

    model, data = make_text_model(tmp_path / "exp"), make_texts(tmp_path / "data")
    options = {"beam_size": 3, "min_length_ratio": -4, "max_length_ratio": -9}
    command(check_batching, model_dir=model, data=data, **options)
    assert "3 utterances alone and 3 at a time: 0 differ" in capsys.readouterr().out

    def leaky(_, encoded, lengths):
        return encoded.roll(len(encoded), 1), lengths

    monkeypatch.setattr(DecoderOnlyTextModel, "project", leaky)
    with pytest.raises(UserError, match="depend on the batch"):
        command(check_batching, model_dir=model, data=data, **options)


def test_check_batching_finds_a_leak(model, data, command, capsys, monkeypatch):
    """A model whose encoder sees the batch: check_batching must say so."""
    from espnet_mtla.model.speech import DecoderOnlySpeechModel

    encode = DecoderOnlySpeechModel.encode

    def leaky(self, speech, lengths, keys=()):
        encoded, frames = encode(self, speech, lengths, keys)
        return encoded + 0.5 * (len(speech) > 1), frames

    monkeypatch.setattr(DecoderOnlySpeechModel, "encode", leaky)
    with pytest.raises(UserError, match="depend on the batch"):
        command(check_batching, model_dir=model, data=data, batch_size=4, beam_size=3)
    said = capsys.readouterr().out
    assert "u0\talone -" in said and "6 utterances alone and 4 at a time" in said
