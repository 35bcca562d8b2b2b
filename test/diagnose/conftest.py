import pytest


@pytest.fixture(scope="session")
def prover(model, data):
    import torch

    from espnet_mtla.diagnose.prove import Prover
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.utterances import list_utterances, load_sound
    from espnet_mtla.search.options import DecodeOptions

    options = DecodeOptions(beam_size=3, nbest=2, min_length_ratio=0.15)
    trained = TrainedModel.from_folder(model, torch.device("cpu"), options)
    utterances = list_utterances(data, trained.fs)[:4]
    sounds = [load_sound(utterance, trained.fs) for utterance in utterances]
    return Prover(trained, options, sounds, batch_size=3)
