"""YAML files: what is read, how one is laid over another, which keys are refused."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import pytest
from espnet2.utils.nested_dict_action import NestedDictAction
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtla.errors import UserError
from espnet_mtla.settings.yaml_files import check_keys, load_config, load_yaml, overlay
from espnet_mtla.task.numbers import read_as_yaml

plain = st.integers(0, 9) | st.sampled_from(["x", "y"]) | st.none()
sections = st.dictionaries(
    st.sampled_from(["a", "b", "frontend_conf"]),
    plain | st.dictionaries(st.sampled_from(["c", "d"]), plain, max_size=2),
    max_size=3,
)


def test_sections_are_merged_and_values_replaced():
    base = {"lr": 1, "decoder_conf": {"embed_dim": 8, "attention": "mha"}}
    top = {"decoder_conf": {"attention": "mtla", "attention_conf": {"down_rate": 2}}}
    assert overlay(base, top) == {
        "lr": 1,
        "decoder_conf": {
            "embed_dim": 8,
            "attention": "mtla",
            "attention_conf": {"down_rate": 2},
        },
    }


def test_what_all_attention_types_share_may_stand_below_them():
    base = {"decoder_conf": {"attention_conf": {"rope_base": 200.0, "down_rate": 3}}}
    top = {"decoder_conf": {"attention": "mtla", "attention_conf": {"down_rate": 2}}}
    merged = overlay(base, top)["decoder_conf"]["attention_conf"]
    assert merged == {"rope_base": 200.0, "down_rate": 2}


def test_settings_of_the_old_frontend_do_not_stay():
    base = {"frontend_conf": {"n_mels": 40, "fs": 8000}}
    assert overlay(base, {"frontend_conf": {"upstream": "x"}})["frontend_conf"] == {
        "upstream": "x"
    }


@given(base=sections, top=sections)
def test_everything_on_top_is_in_the_result_and_the_base_is_untouched(base, top):
    before = repr(base)
    merged = overlay(base, top)
    assert repr(base) == before
    assert merged.keys() == base.keys() | top.keys()
    assert overlay(merged, top) == merged
    assert overlay(base, {}) == base


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("2E5", 2e5), ("1.5e-3", 1.5e-3), ("1e3x", "1e3x"), ("10", 10)],
)
def test_numbers_in_exponent_form_are_numbers(tmp_path: Path, text, value):
    path = tmp_path / "a.yaml"
    path.write_text(f"optim_conf:\n  lr: {text}\n")
    assert load_yaml(path) == {"optim_conf": {"lr": value}}


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2\n", "key 'a' is repeated"),
        (b"a: [1, 2\n", "a.yaml: line"),
        (b"- 1\n- 2\n", "keys and values are needed"),
        (b"a: \xff\n", "not UTF-8"),
        (b"a: !!python/object/apply:os.getcwd []\n", "could not determine"),
        (b"? [a, b]\n: 1\n", "line 1: .* cannot be a key"),
        (b"a: 2024-13-45\n", "month must be"),
        (b"a: 2001-01-01T99:00:00\n", "hour must be"),
        (b"a: " + b"9" * 10_000 + b"\n", "not YAML: Exceeds the limit"),
        (b"a: " + b"[" * 20_000, "nested too deeply"),
        (b"".join(b" " * n + b"a:\n" for n in range(3000)), "nested too deeply"),
        (b"a: &a [*a]\n", "contains itself"),
        (ALIASES.encode(), "more than 1000000 values"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_a_broken_file_is_one_line(tmp_path: Path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"b\.yaml: no such file"):
        load_yaml(tmp_path / "b.yaml")


def test_an_unknown_key_is_named_with_close_ones_first():
    with pytest.raises(UserError) as caught:
        check_keys("decoder_conf", {"num_layer": 3}, ["embed_dim", "num_layers"])
    assert str(caught.value) == (
        "decoder_conf.num_layer: unknown key; did you mean num_layers? "
        "valid: embed_dim, num_layers"
    )


def test_a_section_that_is_no_section_is_named():
    with pytest.raises(UserError, match="decoder_conf: 3 given, keys and values"):
        check_keys("decoder_conf", 3, ["embed_dim"])


def test_a_base_is_read_relative_to_the_file_and_overlaid(tmp_path: Path):
    """Against the same settings in one file; a base may have a base."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.yaml").write_text(
        "x: 1\ns_conf: {p: 1, q: 2}\nfrontend_conf: {fs: 8000, n_fft: 256}\n"
    )
    (tmp_path / "b.yaml").write_text("base: far/a.yaml\ny: [1]\ns_conf: {q: 3}\n")
    (tmp_path / "c.yaml").write_text(
        "base: b.yaml\ny: [2]\nfrontend_conf: {fs: 16000}\n"
    )
    assert load_config(tmp_path / "c.yaml") == {
        "x": 1,
        "s_conf": {"p": 1, "q": 3},
        "frontend_conf": {"fs": 16000},  # replaced whole, as by --frontend_config
        "y": [2],
    }


def test_the_training_file_and_its_fragments_may_have_bases(tmp_path: Path):
    from espnet_mtla.task.launch import read_config

    (tmp_path / "a.yaml").write_text("x: 1\ny: 1\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ny: 2\n")
    (tmp_path / "c.yaml").write_text("z: 3\n")
    (tmp_path / "d.yaml").write_text("base: c.yaml\ny: 4\n")
    config = read_config(tmp_path / "b.yaml", None, tmp_path / "d.yaml")
    assert config == {"x": 1, "y": 4, "z": 3}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "base: no.yaml"}, r"a\.yaml: base: .*no\.yaml: no such file"),
        ({"a": "base: a.yaml"}, r"a\.yaml: base: .*is based on this file itself"),
        (
            {"a": "base: b.yaml", "b": "base: ./a.yaml"},
            r"b\.yaml: base: .*a\.yaml: is based on this file itself",
        ),
        (
            {"a": "base: [b.yaml]", "b": ""},
            r"a\.yaml: base: \['b\.yaml'\] given, a file",
        ),
        ({"a": "base: b.yaml", "b": "- 1"}, r"b\.yaml: keys and values are needed"),
    ],
)
def test_a_wrong_base_is_named(tmp_path: Path, files, message):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError, match=message) as caught:
        load_config(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "settings"),
    [
        (["lr=1e-3"], {"name": "1e3", "lr": 1e-3}),
        (
            ["a.b=1e2", "a.c=no", "lr=1e3x"],
            {"a": {"b": 100.0, "c": False}, "lr": "1e3x"},
        ),
        (["{lr: 2E5}", "name=x"], {"name": "x", "lr": 2e5}),
        (["name.a=[1, 2e1]", "b="], {"name": {"a": [1, 20.0]}, "b": ""}),
        (["{'a': {b: x=1}}"], {"a": {"b": "x=1"}}),
    ],
)
def test_keys_and_values_of_the_command_line(
    texts: list[str], settings: dict[str, object]
) -> None:
    options = [part for text in texts for part in ("--optim_conf", text)]
    parser = keys_and_values()
    assert parser.parse_args(options).optim_conf == {"name": "1e3"} | settings
    assert parser.parse_args([]).optim_conf == {"name": "1e3"}


def test_wrong_keys_and_values_are_named_and_nothing_is_evaluated(tmp_path: Path):
    parser = keys_and_values()
    with pytest.raises(UserError, match="--optim_conf lr: KEY=VALUE or"):
        parser.parse_args(["--optim_conf", "lr"])
    touch = f"__import__('pathlib').Path('{tmp_path}/x').touch() or {{}}"
    for text in (touch, f"a=!!python/object/apply:os.mkdir ['{tmp_path}/x']"):
        with pytest.raises(UserError, match="--optim_conf"):
            parser.parse_args(["--optim_conf", text])
    assert not list(tmp_path.iterdir())


def keys_and_values() -> ArgumentParser:
    parser = ArgumentParser()
    parser.add_argument(
        "--optim_conf", action=NestedDictAction, default={"name": "1e3"}
    )
    read_as_yaml(parser._actions)
    return parser
