"""Lines of the game, in the packages' layout: which are used, and in which set."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_mtla.data.folder import read_table
from espnet_mtla.errors import UserError

SETS = ("train", "valid", "test_cs", "test_nl")
# Words that occur in one level each, so that no text is in two of them.
WORDS = [
    a + b for a in ("ryb", "lod", "moř", "kam") for b in ("a", "y", "ou", "em", "i")
]


def write_sound(game: Path, level: str, language: str, key: str, seed: int) -> None:
    """Write 0.1 s of a tone whose pitch is the seed's."""
    path = game / "sound" / level / language / f"{key}.ogg"
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.3 * np.sin(np.arange(2205) * (0.05 + 0.001 * seed))
    soundfile.write(path, tone, 22050, format="OGG", subtype="VORBIS")


def write_list(game: Path, level: str, name: str, lines: list[tuple[str, ...]]) -> None:
    """Write a dialog list of (key, font, English, text)."""
    path = game / "script" / level / f"{name}.lua"
    path.parent.mkdir(parents=True, exist_ok=True)
    calls = [
        f'dialogId("{key}", "{font}", "{english}")\ndialogStr("{text}")\n\n'
        for key, font, english, text in lines
    ]
    path.write_text("\n" + "\n".join(calls), encoding="utf-8")


@pytest.fixture
def game(tmp_path: Path) -> Path:
    """Twenty levels of two lines, spoken in both languages, with a German text."""
    game = tmp_path / "corpus/usr/share/games/fillets-ng"
    for number, word in enumerate(WORDS):
        level = f"level{number:02}"
        for language in ("cs", "nl", "de"):
            lines = [
                (
                    f"{level}-m-{i}",
                    font,
                    f"See {word} {i * 'x'}!",
                    f"{language}{word}{i * 'x'}!",
                )
                for i, font in enumerate(("font_small", "font_big"))
            ]
            write_list(game, level, f"dialogs_{language}", lines)
            for i, line in enumerate(lines):
                if language != "de":
                    seed = 4 * number + 2 * i + (language == "nl")
                    write_sound(game, level, language, line[0], seed)
    return game


@pytest.fixture
def prepare(load_local):
    return load_local("fillets/asr1")


@pytest.fixture
def translate(prepare, load_local, monkeypatch):
    """The script of st1, with those of asr1 on the path, as its data.sh has it."""
    monkeypatch.syspath_prepend(str(Path(prepare.__file__).parent))
    return load_local("fillets/st1", "translate")


def call(module, monkeypatch, game: Path, data: Path, *options: str) -> None:
    """Run a script on the made-up game, whose counts are not the packages'."""
    words = ["prepare", "--corpus", game.parents[3], "--data", data, *options]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    module.main()


def test_sets_are_apart_and_a_level_is_in_one(
    prepare, game, tmp_path, monkeypatch, capsys
):
    call(prepare, monkeypatch, game, tmp_path / "data", "--any_count")
    output = capsys.readouterr().out
    assert "cs: 40 recordings, 40 with a text" in output
    assert "nl: 40 lines in, 40 kept, 0 dropped" in output
    texts = {name: read_table(tmp_path / "data" / name / "text") for name in SETS}
    keys = [key for name in SETS for key in texts[name]]
    assert len(keys) == len(set(keys)) == 80
    level_set = {}
    for name, table in texts.items():
        for key in table:
            level = key.split("-")[2]
            assert level_set.setdefault(level, name[:4]) == name[:4]
    assert len(level_set) == 20
    assert {key[:2] for key in texts["test_nl"]} == {"nl"}
    assert {key[:2] for key in texts["train"]} == {"nl", "cs"}
    assert texts["test_cs"].keys() == {
        k.replace("nl-", "cs-") for k in texts["test_nl"]
    }
    key = next(key for key in texts["train"] if key.startswith("cs-big"))
    assert read_table(tmp_path / "data/train/utt2spk")[key] == "cs-big"
    assert read_table(tmp_path / "data/train/utt2lang")[key] == "cs"
    assert texts["train"][key] == f"cs{WORDS[int(key.split('-')[2][5:])]}x"
    sound = read_table(tmp_path / "data/train/wav.scp")[key]
    assert sound.endswith(f"/cs/{key.removeprefix('cs-big-').split('-', 1)[1]}.ogg")


def test_one_language_has_the_same_lines(prepare, game, tmp_path, monkeypatch):
    call(prepare, monkeypatch, game, tmp_path / "both", "--any_count")
    call(
        prepare, monkeypatch, game, tmp_path / "nl", "--any_count", "--languages", "nl"
    )
    assert not (tmp_path / "nl/test_cs").exists()
    for name in ("train", "valid", "test_nl"):
        both = read_table(tmp_path / "both" / name / "text")
        dutch = {key: text for key, text in both.items() if key.startswith("nl")}
        assert read_table(tmp_path / "nl" / name / "text") == dutch


def test_a_text_of_a_held_out_set_leaves_training(
    prepare, game, tmp_path, monkeypatch, capsys
):
    """One text in two levels, in German alone: only the held-out set has it."""
    sets = prepare.split_levels(
        [r for lang in ("cs", "nl") for r in prepare.read_recordings(game, lang)[0]], 1
    )
    test, train = (
        next(level for level in sorted(sets) if sets[level] == name)
        for name in ("test", "train")
    )
    for level in (test, train):
        path = game / "script" / level / "dialogs_de.lua"
        same = path.read_text(encoding="utf-8").replace(
            f"de{WORDS[int(level[5:])]}!", "Beide, hier!"
        )
        path.write_text(same, encoding="utf-8")
    call(prepare, monkeypatch, game, tmp_path / "data", "--any_count")
    assert "train: 2 lines dropped: their text is in a held-out set" in (
        capsys.readouterr().out
    )
    keys = read_table(tmp_path / "data/train/text")
    assert {k for k in keys if train in k} == {
        f"{lang}-big-{train}-{train}-m-1" for lang in ("cs", "nl")
    }
    assert len(read_table(tmp_path / "data/test_nl/text")) == sum(
        2 for name in sets.values() if name == "test"
    )


def test_what_cannot_be_used_is_counted(prepare, game, tmp_path, monkeypatch, capsys):
    extra = [
        ("digits", "font_small", "Key F3.", "Taste F3."),
        ("silent", "font_small", "No.", "..."),
        ("empty", "font_small", "Nothing.", ""),
        ("hollow", "font_small", "Hollow.", "dutá"),
    ]
    write_list(game, "level00", "demo_dialogs_cs", extra)
    for seed, (key, *_) in enumerate(extra, 100):
        write_sound(game, "level00", "cs", key, seed)
    write_sound(game, "level00", "cs", "unlisted", 99)
    soundfile.write(
        game / "sound/level00/cs/hollow.ogg", np.zeros(0), 22050, format="OGG"
    )
    call(prepare, monkeypatch, game, tmp_path / "data", "--any_count")
    output = capsys.readouterr().out
    assert "cs: 45 recordings, 43 with a text" in output
    assert "cs: 43 lines in, 40 kept, 3 dropped" in output
    for reason in (
        "1 digits, symbols or another script, such as cs-small-level00-digits",
        "1 text without words, such as cs-small-level00-silent",
        "1 sound without samples, such as cs-small-level00-hollow",
    ):
        assert reason in output


def test_translations_and_any_pair(translate, game, tmp_path, monkeypatch, capsys):
    call(translate, monkeypatch, game, tmp_path / "en", "--any_count")
    for pair in ("nl-en", "cs-en"):
        table = read_table(tmp_path / "en" / f"test_{pair}" / "text")
        spoken = read_table(tmp_path / "en" / f"test_{pair}" / "text.spoken")
        assert table and all(text.startswith("See ") for text in table.values())
        assert all(text.startswith(pair[:2]) for text in spoken.values())
    path = game / "script/level00/dialogs_de.lua"
    path.write_text(path.read_text(encoding="utf-8").replace("deryba!", "A%1"))
    call(
        translate, monkeypatch, game, tmp_path / "de", "--any_count", "--pairs", "cs-de"
    )
    assert not (tmp_path / "de/test_nl-en").exists()
    texts = [
        text
        for name in ("train", "valid", "test_cs-de")
        for text in read_table(tmp_path / "de" / name / "text").values()
    ]
    assert len(texts) == 39 and all(text.startswith("de") for text in texts)
    assert "1 lines dropped: no translation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["nl-nl"], "--pairs nl-nl: SPOKEN-WRITTEN needed, such as nl-en"),
        (["de-en"], "--pairs de-en: SPOKEN-WRITTEN needed"),
        (["cs"], "--pairs cs: SPOKEN-WRITTEN needed"),
        (["nl-en", "nl-de"], "nl is spoken in two"),
    ],
)
def test_wrong_pairs(translate, pairs, message):
    with pytest.raises(UserError, match=message):
        translate.parse_pairs(pairs)


@pytest.mark.usefixtures("prepare")
def test_dialog_lists_as_lua_allows_them():
    from dialogs import Line, parse_dialogs

    lines, unread = parse_dialogs(
        r"""
-- dialogId("old", "font_big", "commented out")
dialogId("a-1", "font_small", "Say \"hi\".")
dialogStr(
"Hallo,
\"jij\" -- in \/etc")
for i = 0, 29 do dialogId("key"..i, "", "") end
dialogId ( "b" ,"font_big", "C:\\X \065" )
dialogStr("c","font_big", "three strings")
dialogId("d", "", "") dialogStr("")
""",
        "x.lua",
    )
    assert lines == [
        Line("a-1", "font_small", 'Say "hi".', 'Hallo,\n"jij" -- in /etc'),
        Line("d", "", "", ""),
    ]
    assert unread == ["x.lua:7: dialogId", "x.lua:9: dialogStr"]


def test_a_key_with_two_texts_has_none(prepare, game):
    write_list(
        game, "level00", "demo_dialogs_de", [("level00-m-0", "font_big", "x", "Anders")]
    )
    recordings, _ = prepare.read_recordings(game, "nl")
    texts = {r.name: r.texts for r in recordings if r.level == "level00"}
    assert "de" not in texts["level00-m-0"] and "de" in texts["level00-m-1"]
    assert texts["level00-m-0"]["cs"] == "csryba!"


def test_bad_corpora_are_one_clear_line(prepare, game, tmp_path, monkeypatch):
    data = tmp_path / "data"

    def refused(message: str, corpus: Path = game) -> None:
        with pytest.raises(UserError, match=message):
            call(prepare, monkeypatch, corpus, data, "--any_count")
        assert not data.exists()

    with pytest.raises(UserError, match=r"40 lines spoken in cs have a text, 1,725 in"):
        call(prepare, monkeypatch, game, data)
    empty = tmp_path / "other" / "a/b/c/d"
    empty.mkdir(parents=True)
    refused("no fillets-ng/script and fillets-ng/sound below it; unpack", empty)
    refused("no such folder", tmp_path / "none/a/b/c/d")
    path = game / "script/level03/dialogs_cs.lua"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b'"')])
    refused(r"level03/dialogs_cs\.lua: a string without end; unpack the package again")
    path.write_bytes(whole + b"\xff")
    refused(r"level03/dialogs_cs\.lua: not UTF-8")
    path.write_bytes(whole)
    sound = next(game.glob("sound/level03/cs/*.ogg"))
    sound.write_bytes(b"no sound")
    refused(r"level03/cs/.*\.ogg: no sound")
    for file in game.glob("sound/*/nl/*.ogg"):
        file.unlink()
    refused(r"no sound/LEVEL/nl/KEY\.ogg; unpack fillets-ng-data-nl there, too")
