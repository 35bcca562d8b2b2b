"""Write the model card of a packed model: its sizes, its use, and its results."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError

if TYPE_CHECKING:
    from espnet_mtla.model.base import DecoderOnlyModel
    from espnet_mtla.model.originals import Original
    from espnet_mtla.score.results import Table
    from espnet_mtla.search.options import DecodeOptions

PIPELINES = {
    "asr": "automatic-speech-recognition",
    "st": "translation",
    "slu": "audio-classification",
    "sum": "summarization",
}
"""The hub's name for each of our tasks."""

TAGS = ("espnet_mtla", "mtla", "speech", "decoder-only")


@dataclass(frozen=True)
class Card:
    """Entries of the card that only its author knows.

    Attributes:
        name: OWNER/NAME on the hub, or a short name.
        license: identifier of the licence, such as apache-2.0.
        language: identifier of the language, such as en.
        about: one or two sentences.
        originals: pretrained models that the model began from.
    """

    name: str
    license: str | None = None
    language: str | None = None
    about: str | None = None
    originals: tuple[Original, ...] = ()


USE = """\
## Use

```bash
pip install "espnet-mtla[recipes]"
espnet-mtla transcribe recording.wav --model {name}
```

```python
from espnet_mtla import Speech2Text

speech2text = Speech2Text.from_pretrained("{name}")
print(speech2text("recording.wav"))
```

{name} may be this folder's path or its name on the hub. Audio of any sampling rate and
any number of channels is converted to one channel of {fs} Hz."""


def card_text(
    folder: Path,
    model: DecoderOnlyModel,
    config: Mapping[str, Any],
    options: DecodeOptions,
    card: Card,
) -> str:
    """Return the card as Markdown with the hub's YAML header.

    Args:
        folder: the experiment; its scores are shown.
        model: the packed model.
        config: settings that the model was built from.
        options: decoding settings that are packed with the model.
        card: entries by the author.
    """
    import yaml

    from espnet_mtla.model.components import sampling_rate

    tables = score_tables(folder)
    task = PIPELINES[config.get("task", "asr")]
    header = yaml.safe_dump(
        _header(card, task, tables), sort_keys=False, allow_unicode=True
    )
    decoding = f"beam {options.beam_size}, CTC weight {options.ctc_weight:g}"
    use = []
    if config["frontend"] not in (None, "none"):
        use = [USE.format(name=card.name, fs=sampling_rate(Namespace(**config)))]
    parts = [
        f"---\n{header}---",
        f"# {card.name}",
        *([card.about] if card.about else []),
        _model(model, config),
        *([_originals(card.originals)] if card.originals else []),
        *use,
        "## Results",
        _results(tables),
        f"Default decoding settings, in `decode.yaml`: {decoding}.",
        _provenance_line(),
    ]
    return "\n\n".join(parts) + "\n"


def score_tables(folder: Path) -> list[Table]:
    """Return a table for each scored test set of an experiment and each metric."""
    from espnet_mtla.score.metric import METRICS
    from espnet_mtla.score.results import collect

    tables = []
    for metric in METRICS:
        if not any(folder.glob(f"decode_*/*/score_{metric}/score.json")):
            continue
        for table in collect([folder], metric=metric, partial=True):
            if table.rows[0].quality:
                tables.append(table)
    return tables


def _header(card: Card, task: str, tables: list[Table]) -> dict[str, Any]:
    """Return the YAML header: tags, and results as the hub's ``model-index``."""
    header: dict[str, Any] = {
        "library_name": "espnet_mtla",
        "pipeline_tag": task,
        "tags": list(TAGS),
    }
    for key in ("license", "language"):
        if getattr(card, key):
            header[key] = getattr(card, key)
    names = [one.name for one in card.originals if "/" in one.name]
    if names:
        header["base_model"] = names
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": table.test_set, "type": table.test_set},
            "metrics": [
                {
                    "type": table.metric,
                    "value": round(quality.value, 2),
                    "name": f"{table.metric}, decoded with {table.decode}",
                }
            ],
        }
        for table in tables
        if (quality := table.rows[0].quality)
    ]
    if results:
        header["model-index"] = [{"name": card.name, "results": results}]
    return header


def _model(model: DecoderOnlyModel, config: Mapping[str, Any]) -> str:
    """Return the section on sizes, encoder and decoder."""
    count = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"{count:,} parameters, {len(model.token_list):,} tokens."]
    encoder = config.get("encoder")
    if encoder not in (None, "none"):
        shown = _settings(config["encoder_conf"])
        lines.append(f"Encoder: {encoder}{shown}.")
    if model.decoder is not None:
        decoder = model.decoder.config
        conf = _settings(decoder.complete_attention())
        lines.append(
            f"Decoder-only: {decoder.num_layers} layers of width {decoder.embed_dim}, "
            f"{decoder.num_heads} heads, attention {decoder.attention}{conf}."
        )
    return "\n".join(["## Model", "", *(f"- {line}" for line in lines)])


def _originals(originals: Sequence[Original]) -> str:
    """Return the section on the pretrained models, and their licences."""
    lines = []
    for one in originals:
        license = f"licence {one.license}" if one.license else "licence unknown"
        lines.append(f"- {one.part}: {one.name}, {license}")
    note = "The weights of these models, changed or not, are part of this one."
    if any(one.license is None for one in originals):
        note += " Look up the unknown licences before you pass it on."
    return "\n".join(["## Pretrained models", "", *lines, "", note])


def _settings(conf: Mapping[str, Any]) -> str:
    """Return settings in parentheses, or nothing if there are none."""
    shown = ", ".join(f"{key} {value}" for key, value in conf.items())
    return f" ({shown})" if shown else ""


def _results(tables: list[Table]) -> str:
    """Return the table of all results, and the conditions of their measurement."""
    from espnet_mtla.score.metric import METRICS
    from espnet_mtla.score.render import conditions, quantity
    from espnet_mtla.score.table import markdown

    if not tables:
        return "None were measured before the model was packed."
    rows = []
    for table in tables:
        quality, speed = table.rows[0].quality, table.rows[0].speed
        if quality is None:  # score_tables() excludes these
            continue
        low, high = quality.ci95
        rows.append(
            [
                table.test_set,
                table.decode,
                METRICS[table.metric].label,
                f"{quality.value:.2f} [{low:.2f}, {high:.2f}]",
                f"{speed.rtf:.3f}" if speed else "-",
                quantity(speed.cache_bytes_per_audio_second, "B") if speed else "-",
            ]
        )
    header = ["test set", "decoded with", "metric", "value [95 %]", "RTF", "cache/s"]
    notes = [f"{table.test_set}: {' '.join(conditions(table))}" for table in tables]
    return "\n\n".join([markdown(header, rows), *dict.fromkeys(notes)])


def _provenance_line() -> str:
    """Return versions and commit of this run; a date would make each card another."""
    from espnet_mtla.score.provenance import provenance

    source = provenance()
    versions = ", ".join(f"{name} {number}" for name, number in source.versions.items())
    commit = f", commit {source.commit}" if source.commit else ""
    return f"Packed with {versions}{commit}."


def check_name(name: str) -> str:
    """Return ``name`` if the hub accepts it as the name of a model.

    Raises:
        UserError: it has other characters.

    >>> check_name("owner/model-1.0")
    'owner/model-1.0'
    """
    if not re.fullmatch(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", name):
        raise UserError(
            f"--name {name}: owner/name of letters, digits, '-', '_' and '.' is needed"
        )
    return name
