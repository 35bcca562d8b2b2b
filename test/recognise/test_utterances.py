from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.recognise.batches import make_batches
from espnet_mtla.recognise.output import has_loop
from espnet_mtla.recognise.utterances import list_utterances


@given(st.lists(st.integers(1, 4000), max_size=40), st.integers(1, 9000))
def test_batches_hold_each_utterance_once_and_keep_the_limit(frames, largest):
    batches = make_batches(frames, largest)
    assert sorted(index for batch in batches for index in batch) == [
        *range(len(frames))
    ]
    for batch in batches:
        padded = len(batch) * max(frames[index] for index in batch)
        assert len(batch) == 1 or padded <= largest
    lengths = [frames[index] for batch in batches for index in batch]
    assert lengths == sorted(lengths)


def test_loops():
    assert not has_loop([])
    assert not has_loop([7] * 9)
    assert has_loop([7] * 10)
    assert has_loop([1, 2, 3, *[4, 5, 6] * 4, 1])
    assert not has_loop([*[4, 5, 6] * 3, 4, 5, 1])
    assert not has_loop(list(range(50)))


@given(st.lists(st.integers(0, 2), max_size=30))
def test_loops_as_said(tokens):
    def loops(period, start):
        times = max(4, -(-10 // period))
        # At least 4 whole blocks, over at least 10 tokens.
        size = max(4 * period, 10)
        part = tokens[start : start + size]
        block = tokens[start : start + period] * times
        return len(part) == size and part == block[:size]

    found = any(
        loops(period, start)
        for period in range(1, len(tokens) + 1)
        for start in range(len(tokens))
    )
    assert has_loop(tokens) == found


def test_features_are_as_long_as_their_frames(tmp_path):
    """The front-end's frame rate, unless a table has the exact durations."""
    for name, line in (
        ("feats.scp", f"u1 {tmp_path}/feats.ark:0"),
        ("utt2spk", "u1 u1"),
        ("utt2num_frames", "u1 100"),
    ):
        (tmp_path / name).write_text(line + "\n")

    def seconds(fs, *rate):
        return list_utterances(tmp_path, fs, *rate)[0].seconds

    assert seconds(16000, 50) == 2 and seconds(100) == 1
    (tmp_path / "utt2num_samples").write_text("u1 24000\n")
    assert seconds(16000, 50) == 1.5
    assert seconds(100) == 1  # a model without front-end knows no rate of samples
    (tmp_path / "utt2dur").write_text("u1 1.75\n")
    assert seconds(16000, 50) == seconds(100) == 1.75
