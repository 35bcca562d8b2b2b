import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_mtla.bin import inference
from espnet_mtla.data.table import read_table
from espnet_mtla.errors import UserError
from espnet_mtla.recognise.options import read_options
from espnet_mtla.recognise.profile import PARTS
from espnet_mtla.recognise.recogniser import Recogniser
from test.support.tiny_experiment import FS, SECONDS, TOKENS, make_model

CONF = Path(__file__).parents[2] / "conf" / "decode"


def read_output(folder):
    names = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): p.read_text() for p in names}


def stable(output):
    """Return the part of the output that does not depend on times and memory."""
    lines = [json.loads(line) for line in output["utterances.jsonl"].splitlines()]
    for line in lines:
        line.pop("decode_seconds")
        line["score"] = round(line["score"], 3)
    kept = {
        k: v for k, v in output.items() if k.endswith(("text", "token", "token_int"))
    }
    return kept, lines


def test_output_folder(model, data, tmp_path, command, capsys):
    out = tmp_path / "decode" / "test"
    command(inference, model_dir=model, data=data, output_dir=out, beam_size=3, nbest=2)
    keys = [f"u{i}" for i in range(len(SECONDS))]
    tables = {
        name: read_table(out / "1best_recog" / name)
        for name in ("text", "token", "token_int", "score")
    }
    for table in tables.values():
        assert list(table) == keys
    for key in keys:
        ids = [int(i) for i in tables["token_int"][key].split()]
        assert tables["token"][key].split() == [TOKENS[i] for i in ids]
        text = "".join(TOKENS[i] for i in ids).replace("<space>", " ")
        assert tables["text"][key] == text.strip()
        assert float(tables["score"][key]) < 0
    assert read_table(out / "2best_recog" / "token_int") != tables["token_int"]
    lines = [json.loads(line) for line in (out / "utterances.jsonl").open()]
    assert [line["key"] for line in lines] == keys
    for line, seconds in zip(lines, SECONDS, strict=True):
        assert line["audio_seconds"] == pytest.approx(seconds, abs=1e-3)
        assert line["prompt_frames"] == line["encoder_frames"] > 0
        assert line["tokens"] == len(tables["token_int"][line["key"]].split())
        assert line["flags"]["empty"] == (line["tokens"] == 0)
    said = capsys.readouterr().out
    assert f"utterances in {len(keys)}, out {len(keys)}" in said
    assert "RTF" in said


def test_efficiency(model, data, tmp_path, command):
    command(inference, model_dir=model, data=data, output_dir=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "efficiency.json").read_text())
    assert found["utterances"] == len(SECONDS)
    assert found["audio_seconds"] == pytest.approx(sum(SECONDS), abs=0.01)
    parts = found["encoder_seconds"] + found["search_seconds"]
    assert found["wall_seconds"] == pytest.approx(parts)
    assert found["rtf"] == pytest.approx(found["wall_seconds"] / found["audio_seconds"])
    lines = [json.loads(x) for x in (tmp_path / "out" / "utterances.jsonl").open()]
    assert found["tokens"] == sum(line["tokens"] for line in lines)
    shares = sum(line["decode_seconds"] for line in lines)
    assert shares == pytest.approx(found["wall_seconds"], rel=1e-3)
    assert found["cache_bytes_measured"] == found["cache_bytes_formula"] > 0
    assert found["cache_bytes_measured"] <= found["cache_bytes_allocated"]
    # Two layers of 16 + 4 floats for every two positions.
    positions = [line["prompt_frames"] + line["tokens"] + 1 for line in lines]
    single = sum(2 * 20 * 4 * -(-n // 2) for n in positions)
    per_second = single / found["audio_seconds"]
    assert found["cache_bytes_per_audio_second"] == pytest.approx(per_second)
    assert found["peak_memory_kind"] == "process_max_resident_set"
    assert found["peak_memory_bytes"] > 2**20
    assert found["beam_size"] == 10 and found["device"] == "cpu"


def test_mtla_keeps_half_of_what_mla_keeps(data, tmp_path, command):
    sizes = {}
    for name in ("mla", "mtla"):
        folder = make_model(tmp_path / name, attention=name)
        out = tmp_path / name / "out"
        # A fixed number of tokens, so that the two differ in nothing else.
        command(
            inference,
            model_dir=folder,
            data=data,
            output_dir=out,
            min_length_ratio=-8,
            max_length_ratio=-8,
        )
        found = json.loads((out / "efficiency.json").read_text())
        sizes[name] = found["cache_bytes_per_audio_second"]
    assert sizes["mtla"] == pytest.approx(sizes["mla"] / 2, rel=0.03)


@pytest.mark.parametrize("change", ["batch_frames", "order", "ctc", "share_prompt"])
def test_the_same_result_in_other_batches(change, model, data, tmp_path, command):
    options = {"beam_size": 3, "ctc_weight": 0.3 if change == "ctc" else 0.0}
    base = {"model_dir": model, "data": data, "min_length_ratio": 0.15, **options}
    command(inference, **base, output_dir=tmp_path / "a")
    if change == "order":
        base["data"] = tmp_path / "data"
        base["data"].mkdir()
        lines = (data / "wav.scp").read_text().splitlines(keepends=True)
        (base["data"] / "wav.scp").write_text("".join(reversed(lines)))
    elif change == "share_prompt":
        base["share_prompt"] = "false"
    else:
        base["batch_frames"] = 1
    command(inference, **base, output_dir=tmp_path / "b")
    first, second = (stable(read_output(tmp_path / name)) for name in "ab")
    assert first == second
    assert len({line["tokens"] for line in first[1]}) > 2, "too easy a test"


def test_a_profile_tells_every_part(model, data, tmp_path, command, capsys):
    base = {"model_dir": model, "data": data, "beam_size": 2, "ctc_weight": 0.3}
    command(inference, **base, output_dir=tmp_path / "a", profile=True)
    said = {line.split("  ")[0] for line in capsys.readouterr().out.splitlines()}
    assert said >= set(PARTS)
    command(inference, **base, output_dir=tmp_path / "b")
    first, second = (stable(read_output(tmp_path / name)) for name in "ab")
    assert first == second


def test_ctc_changes_scores_and_greedy_is_beam_1(model, data, tmp_path, command):
    scores = {}
    for name in ("greedy", "beam10", "beam10_ctc03"):
        out = tmp_path / name
        config = CONF / f"{name}.yaml"
        command(inference, model_dir=model, data=data, output_dir=out, config=config)
        table = read_table(out / "1best_recog" / "score")
        scores[name] = np.array([float(v) for v in table.values()])
    assert (scores["greedy"] <= scores["beam10"] + 1e-4).all()
    assert not np.allclose(scores["beam10"], scores["beam10_ctc03"])


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda p: p.stem)
def test_decode_settings_are_valid(path):
    options = read_options(argparse.Namespace(config=path))
    assert options.beam_size == (1 if path.stem == "greedy" else 10)


def test_a_decode_file_overrides_its_base(tmp_path):
    (tmp_path / "decode.yaml").write_text("beam_size: 7\nctc_weight: 0.3\n")
    top = tmp_path / "more" / "decode.yaml"
    top.parent.mkdir()
    top.write_text("base: ../decode.yaml\nctc_weight: 0.1\n")
    options = read_options(argparse.Namespace(config=top, nbest=2))
    assert (options.beam_size, options.ctc_weight, options.nbest) == (7, 0.1, 2)
    top.write_text("base: ../absent.yaml\n")
    with pytest.raises(UserError, match=r"decode\.yaml: base: .*absent\.yaml: no such"):
        read_options(argparse.Namespace(config=top))


def test_espnets_options(model, data, tmp_path, command):
    """In a file and on the command line, which wins over the file by either name."""
    base = {"model_dir": model, "data": data, "beam_size": 2}
    config = tmp_path / "decode.yaml"
    config.write_text("penalty: 0.5\nmaxlenratio: 0.4\nminlenratio: 0.1\n")
    given = {"length_bonus": 0.2, "max_length_ratio": 0.4, "min_length_ratio": 0.1}
    command(inference, **base, output_dir=tmp_path / "a", config=config, penalty=0.2)
    command(inference, **base, output_dir=tmp_path / "b", **given)
    command(inference, **base, output_dir=tmp_path / "c", config=config)
    first, second, other = (stable(read_output(tmp_path / name)) for name in "abc")
    assert first == second != other
    with pytest.raises(UserError, match="minlenratio, min_length_ratio: two names"):
        command(inference, **base, **given, minlenratio=0.1, output_dir=tmp_path / "d")


def test_encoder_alone_takes_ctcs_best_path(data, tmp_path, command):
    folder = make_model(tmp_path / "encoder", ctc_weight=1.0)
    command(inference, model_dir=folder, data=data, output_dir=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "efficiency.json").read_text())
    assert found["attention"] == "none" and found["cache_bytes_measured"] == 0
    text = read_table(tmp_path / "out" / "1best_recog" / "token_int")
    assert any(text.values()) and len(text) == len(SECONDS)


def test_segments(model, data, tmp_path, command):
    """Cut from one recording, an utterance is decoded as if it were a file."""
    folder = tmp_path / "data"
    folder.mkdir()
    parts = [soundfile.read(data / f"u{i}.wav", dtype="float32")[0] for i in range(3)]
    joined = tmp_path / "joined.wav"
    soundfile.write(joined, np.concatenate(parts), FS, subtype="FLOAT")
    ends = np.cumsum([len(part) for part in parts]) / FS
    starts = [0.0, *ends[:-1]]
    lines = [f"u{i} talk {starts[i]:.6f} {ends[i]:.6f}\n" for i in range(3)]
    (folder / "segments").write_text("".join(lines))
    (folder / "wav.scp").write_text(f"talk {joined}\n")
    command(inference, model_dir=model, data=data, output_dir=tmp_path / "a")
    command(inference, model_dir=model, data=folder, output_dir=tmp_path / "b")
    whole = read_table(tmp_path / "a" / "1best_recog" / "token_int")
    cut = read_table(tmp_path / "b" / "1best_recog" / "token_int")
    assert cut == {key: whole[key] for key in cut} and len(cut) == 3


def test_a_run_that_dies_leaves_no_mark(model, data, tmp_path, command, monkeypatch):
    out = tmp_path / "out"
    options = {"model_dir": model, "data": data, "output_dir": out, "beam_size": 2}
    command(inference, **options, nbest=2)
    before = stable(read_output(out))
    (out / "log.txt").write_text("kept")

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("espnet_mtla.recognise.output.utterance_record", die)
        with pytest.raises(Killed):
            command(inference, **options)
    assert not (out / "efficiency.json").exists()
    assert not (out / "2best_recog").exists(), "of another run"
    command(inference, **options, nbest=2)
    assert (out / "log.txt").read_text() == "kept"
    assert stable(read_output(out)) == before
    assert not list(out.rglob("*.tmp"))


def test_out_of_memory_halves_the_batch(model, data, tmp_path, command, monkeypatch):
    base = {"model_dir": model, "data": data, "beam_size": 2}
    command(inference, **base, output_dir=tmp_path / "a")
    decode, sizes = Recogniser._decode, []

    def small_memory(self, batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, batch)

    monkeypatch.setattr(Recogniser, "_decode", small_memory)
    command(inference, **base, output_dir=tmp_path / "b")
    assert sizes == [1, 6, 3, 1, 2, 3, 1, 2]  # the first is the warm-up
    first, second = (stable(read_output(tmp_path / name)) for name in "ab")
    assert first == second


@pytest.mark.parametrize(
    "words",
    [
        "DefaultCPUAllocator: can't allocate memory: 1 bytes",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_one_utterance_beyond_memory_is_named(
    words, model, data, tmp_path, command, monkeypatch
):
    def no_memory(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(Recogniser, "_decode", no_memory)
    with pytest.raises(UserError, match=r"^u1: 0\.3 s alone do not fit"):
        command(inference, model_dir=model, data=data, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_errors_of_torch_are_not_taken_for_memory(
    model, data, tmp_path, command, monkeypatch
):
    def bug(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Recogniser, "_decode", bug)
    with pytest.raises(RuntimeError, match="shapes"):
        command(inference, model_dir=model, data=data, output_dir=tmp_path / "out")
