"""Feature archives: what is written comes back, and what is broken is named."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from espnet_mtla.data.features import read_features, write_features
from espnet_mtla.data.folder import FEATURES, DataFolder, source_table
from espnet_mtla.data.table import write_table
from espnet_mtla.data.utterance_table import UtteranceTable
from espnet_mtla.errors import UserError

FORMS = [(kind, dtype) for kind in ("zip", "ark") for dtype in ("float32", "float16")]
MATRICES = st.lists(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.just(3)),
        elements=st.floats(-100, 100, width=16),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    keys = ("b/3", "é4", "a%1")
    return {
        key: generator.standard_normal((count, 3)).astype(np.float32)
        for key, count in zip(keys, (7, 1, 400), strict=True)
    }


@pytest.mark.parametrize(("kind", "dtype"), FORMS)
@given(matrices=MATRICES)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_comes_back_in_any_order(tmp_path, kind, dtype, matrices):
    rows = {f"u{number}": matrix for number, matrix in enumerate(matrices)}
    written = write_features(tmp_path / f"x.{kind}", rows.items(), dtype)
    assert written.width == 3
    for key, place in reversed(written.places_in(tmp_path).items()):
        found = read_features(place)
        assert found.dtype == dtype
        assert np.array_equal(found, rows[key])
        assert written.frames[key] == len(found)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_others_can_read_the_archives(tmp_path, rows, dtype):
    write_features(tmp_path / "x.zip", rows.items(), dtype)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.testzip() is None
        assert {item.compress_type for item in archive.infolist()} == {0}
        assert archive.namelist() == ["b%2F3.npy", "é4.npy", "a%251.npy"]
        with archive.open("é4.npy") as stream:
            assert np.array_equal(np.load(stream), rows["é4"].astype(dtype))
    written = write_features(tmp_path / "x.ark", rows.items(), dtype)
    write_table(tmp_path / "feats.scp", written.places_in(tmp_path))
    theirs = kaldiio.load_scp(str(tmp_path / "feats.scp"))
    assert theirs.keys() == rows.keys()
    for key, matrix in rows.items():
        assert np.array_equal(theirs[key], matrix.astype(dtype))
    assert dict(kaldiio.load_ark(str(tmp_path / "x.ark"))).keys() == rows.keys()


def test_arks_of_others_can_be_read(tmp_path, rows):
    """Kaldi's own forms: double, compressed, a slice."""
    for name, how in (("double", {}), ("compressed", {"compression_method": 2})):
        scp = tmp_path / f"{name}.scp"
        content = {k: m.astype(np.float64) if not how else m for k, m in rows.items()}
        kaldiio.save_ark(str(tmp_path / f"{name}.ark"), content, scp=str(scp), **how)
        for line in scp.read_text().splitlines():
            key, place = line.split(" ", 1)
            assert np.allclose(read_features(place), rows[key], atol=0.05)
    place = f"{tmp_path}/double.ark:4[2:4]"
    assert np.array_equal(read_features(place), rows["b/3"][2:5])


@pytest.mark.parametrize("kind", ["zip", "ark"])
def test_nothing_is_left_of_a_write_that_fails(tmp_path, rows, kind):
    def failing():
        yield from list(rows.items())[:2]
        raise UserError("u9: unreadable")

    with pytest.raises(UserError, match="u9"):
        write_features(tmp_path / f"x.{kind}", failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "dtype", "message"),
    [
        ([("u", np.zeros((2, 3))), ("u", np.zeros((2, 3)))], "float32", "u' occurs tw"),
        ([("u", np.zeros((2, 3))), ("v", np.zeros((2, 4)))], "float32", "v: 4 feat"),
        ([("u", np.zeros((0, 3)))], "float32", r"u: \(frames, width\) needed"),
        ([("u", np.zeros(3))], "float32", r"u: \(frames, width\) needed"),
        ([("u", np.full((1, 1), np.nan))], "float32", "u: NaN, infinite or too large"),
        ([("u", np.full((1, 1), 1e6))], "float16", "u: .* too large for float16"),
        ([("u", np.zeros((2, 3)))], "int8", r"\.zip or \.ark of float32 or float16"),
    ],
)
def test_features_that_cannot_be_stored_are_named(tmp_path, rows, dtype, message):
    with pytest.raises(UserError, match=message):
        write_features(tmp_path / "x.zip", rows, dtype)
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def cut_a_little(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def overwrite(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def damage_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"(400, 3)", b"(900, 3)"))


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("zip", Path.unlink, "no such file"),
        ("zip", cut, r"beyond the end of .*x\.zip: is it truncated"),
        ("zip", overwrite, "no features at this place"),
        ("zip", damage_header, "damaged features"),
        ("ark", Path.unlink, "no such file"),
        ("ark", cut, "beyond the end of"),
        ("ark", cut_a_little, "damaged features"),
        ("ark", overwrite, "no matrix at this place"),
    ],
)
def test_a_broken_archive_names_utterance_and_place(
    tmp_path, rows, kind, damage, message
):
    path = tmp_path / f"x.{kind}"
    written = write_features(path, rows.items())
    write_table(tmp_path / FEATURES, written.places_in(tmp_path))
    damage(path)
    table = UtteranceTable(tmp_path / FEATURES)
    with pytest.raises(UserError, match=rf"^a%1: .*x\.{kind}:\d+.*{message}") as caught:
        table["a%1"]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "dtype"), FORMS)
def test_whatever_bytes_a_header_has_the_place_is_named(tmp_path, rows, kind, dtype):
    """numpy evaluates its headers, and both formats believe the sizes in them."""
    path = tmp_path / f"x.{kind}"
    place = write_features(path, rows.items(), dtype).places_in(tmp_path)["é4"]
    whole, start = path.read_bytes(), int(place.split(":")[1])
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(whole)
        broken[start + generator.integers(80)] = generator.integers(256)
        path.write_bytes(broken)
        try:
            assert np.isfinite(read_features(place)).all()
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"{place}: ") and "\n" not in str(error)
    assert refused > 30


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_features_of_others_are_looked_at(tmp_path, bad, shape):
    """An ark that was not written here may hold anything."""
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"u": np.full(shape, bad, np.float32)})
    message = "NaN or infinite" if shape[0] else r"shape \(0, 3\), a matrix of features"
    with pytest.raises(UserError, match=message):
        read_features(f"{tmp_path}/x.ark:2")


@pytest.mark.parametrize("shift", [-7, 1, 100])
@pytest.mark.parametrize("kind", ["zip", "ark"])
def test_a_wrong_offset_is_named(tmp_path, rows, kind, shift):
    written = write_features(tmp_path / f"x.{kind}", rows.items())
    path, offset, *length = written.places_in(tmp_path)["é4"].rsplit(":", 3 - 1)
    if kind == "ark":
        path, offset = written.places_in(tmp_path)["é4"].rsplit(":", 1)
    wrong = ":".join([path, str(int(offset) + shift), *length])
    with pytest.raises(UserError, match="at this place of the archive"):
        read_features(wrong)


@pytest.mark.parametrize("place", ["x.zip", "x.zip:12", "x.npy:12:30", "x.ark:-1"])
def test_what_is_no_place_is_named(place):
    with pytest.raises(UserError, match=r"FILE\.zip:OFFSET:LENGTH or FILE\.ark:OFFSET"):
        read_features(place)


def test_pickles_are_not_opened(tmp_path):
    class Mark:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    kaldiio.save_ark(str(tmp_path / "x.ark"), {"u": Mark()}, write_function="pickle")
    with pytest.raises(UserError, match="no matrix at this place"):
        read_features(f"{tmp_path}/x.ark:2")
    bad = tmp_path / "x.zip"
    bad.write_bytes(pickle.dumps(Mark()))
    with pytest.raises(UserError, match="no features at this place"):
        read_features(f"{bad}:0:{bad.stat().st_size}")
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_features_is_a_data_folder(tmp_path, rows):
    written = write_features(tmp_path / "x.zip", rows.items())
    write_table(tmp_path / FEATURES, written.places_in(tmp_path))
    write_table(tmp_path / "text", dict.fromkeys(rows, "a b"))
    folder = DataFolder.read(tmp_path)
    assert folder.source == FEATURES
    folder.select(["é4"]).write(tmp_path / "one")
    assert not (tmp_path / "one" / "wav.scp").exists()
    table = UtteranceTable(tmp_path / "one" / FEATURES)
    assert np.array_equal(table["é4"], rows["é4"])
    assert (list(table), len(table)) == (["é4"], 1)


@pytest.mark.parametrize(
    ("kind", "expected"), [(None, "wav.scp"), ("raw", "wav.scp"), ("kaldi", FEATURES)]
)
def test_a_kaldi_folder_with_both_is_one_of_sound_unless_it_says_so(
    tmp_path, kind, expected
):
    for name in ("wav.scp", FEATURES):
        (tmp_path / name).write_text("u x\n")
    if kind:
        (tmp_path / "feats_type").write_text(f"{kind}\n")
    assert source_table(tmp_path) == expected
