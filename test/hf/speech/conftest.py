import pytest


@pytest.fixture(scope="session")
def packed(model, tmp_path_factory):
    """A model for which ``generate`` returns texts of different lengths."""
    from espnet_mtla.search.options import DecodeOptions
    from espnet_mtla.share.card import Card
    from espnet_mtla.share.pack import pack

    folder = tmp_path_factory.mktemp("hf_packed") / "tiny"
    options = DecodeOptions(beam_size=3, min_length_ratio=0.15)
    pack(model, folder, options, Card("me/tiny"))
    return folder
