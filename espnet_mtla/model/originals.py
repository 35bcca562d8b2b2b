"""Pretrained models that a model began from: their names and licences.

Training writes them into the experiment folder, as long as they are at hand. The model
card names them.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from espnet_mtla.data.atomic import atomic_file
from espnet_mtla.errors import UserError, hub_errors
from espnet_mtla.settings.names import ORIGINALS, README

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HEADER = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)


@dataclass(frozen=True)
class Original:
    """A pretrained model.

    Attributes:
        part: what it became: ``frontend`` or ``decoder``.
        name: OWNER/NAME on the hub, or the name of a folder.
        license: identifier such as ``apache-2.0``; None: unknown.
    """

    part: str
    name: str
    license: str | None = None


def record_originals(args: Namespace, folder: Path) -> None:
    """Write the originals of a training into its folder; a resumed one keeps them."""
    file = folder / ORIGINALS
    sources = _sources(args)
    if sources and not file.exists():
        entries = [asdict(describe(part, source)) for part, source in sources.items()]
        with atomic_file(file) as stream:
            json.dump(entries, stream, indent=1)


def read_originals(folder: Path, args: Namespace) -> list[Original]:
    """Return the originals of a trained model; their licences if they were recorded.

    Args:
        folder: the experiment.
        args: its configuration, which names the decoder's original.
    """
    file = folder / ORIGINALS
    if file.is_file():
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            return [Original(**entry) for entry in entries]
        except (ValueError, TypeError):
            raise UserError(
                f"{file}: not a list of models as training writes it"
            ) from None
    base = getattr(args, "decoder_base_model", None)
    return [describe("decoder", base)] if base else []


def describe(part: str, source: str) -> Original:
    """Return name and licence of a folder or a model on the hub."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        name = source if _NAME.fullmatch(source) else folder.name
        return Original(part, name, _hub_license(source))
    recorded = _json(folder / "config.json").get("_name_or_path", "")
    is_name = isinstance(recorded, str) and _NAME.fullmatch(recorded)
    text = _text(folder / README)
    license = _license(text) or _json(folder / "config.json").get("license")
    return Original(
        part,
        recorded if is_name else folder.resolve().name,
        license if isinstance(license, str) else None,
    )


def _sources(args: Namespace) -> dict[str, str]:
    """Return folder or name of each part that begins from a pretrained model."""
    sources: dict[str, str] = {}
    if args.frontend == "transformers" and args.frontend_conf.get("model"):
        sources["frontend"] = args.frontend_conf["model"]
    if getattr(args, "decoder", None) == "pretrained":
        sources["decoder"] = args.decoder_conf["model"]
    return sources


def _license(card: str) -> str | None:
    """Return the licence in the header of a model card.

    >>> _license("---\\nlicense: mit\\n---\\n# A model")
    'mit'
    """
    import yaml

    header = _HEADER.match(card)
    if header is None:
        return None
    try:
        entries = yaml.safe_load(header[1])
    except yaml.YAMLError:
        return None
    if not isinstance(entries, dict):
        return None
    license = entries.get("license")
    if license == "other":  # the hub's word for one that has no identifier
        license = entries.get("license_name", license)
    return license if isinstance(license, str) else None


def _hub_license(name: str) -> str | None:
    """Return the licence of a model on the hub; None if the hub cannot be asked."""
    if not _NAME.fullmatch(name):
        return None
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache
    except ModuleNotFoundError:
        return None
    cached = try_to_load_from_cache(name, README)
    if isinstance(cached, str):
        return _license(_text(Path(cached)))
    try:
        with hub_errors(name):
            card = HfApi().model_info(name, timeout=10).card_data
    except UserError:
        return None
    license = card.get("license") if card else None
    return license if isinstance(license, str) else None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(file) or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
