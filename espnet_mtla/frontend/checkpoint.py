"""Read checkpoints of pretrained models: folders as Transformers writes them.

Weights are safetensors, or torch's format read without running code. Models on the hub
are downloaded without the files that are not needed here.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_mtla.errors import UserError, hub_errors, no_file
from espnet_mtla.text_files import parse_json

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, ADAPTERS = "config.json", "adapter_config.json"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
"""Files with the feature extractor's settings; the second is of Transformers 5."""
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_folder(model: str) -> Path:
    """Return the folder of a model, downloaded from the hub if need be.

    Args:
        model: a folder, or OWNER/NAME on the hub. A folder takes precedence.

    Raises:
        UserError: there is neither; the message says how to get the model.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _NAME.fullmatch(model):
        raise UserError(
            f"model: {model}: no such folder, and not a name on the hub (owner/name)"
        )
    try:
        return _download(model)
    except UserError as error:
        raise UserError(
            f"model: {error}; where there is a connection, `hf download {model} "
            "--local-dir FOLDER` gets it: copy that folder here and name it"
        ) from None


def _download(name: str) -> Path:
    """Return the hub's folder of a model, from the cache or downloaded."""
    try:
        from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
    except ModuleNotFoundError:
        raise UserError(
            f"{name}: no such folder; to download models: pip install huggingface_hub"
        ) from None
    config = try_to_load_from_cache(name, CONFIG)
    if isinstance(config, str) and _is_complete(Path(config).parent):
        return Path(config).parent
    with hub_errors(name):
        # A request of its own: the client repeats others for a minute.
        listing = HfApi().model_info(name, timeout=10).siblings or ()
        names = {file.rfilename for file in listing}
        return Path(snapshot_download(name, allow_patterns=needed_files(names)))


def _is_complete(folder: Path) -> bool:
    """Return True if a folder has weights and the settings of a feature extractor."""
    files = _shards(folder)
    extractor = any((folder / name).is_file() for name in EXTRACTORS)
    return bool(files) and extractor and all(file.is_file() for file in files)


def needed_files(names: set[str]) -> list[str]:
    """Return which of a folder's files belong to the checkpoint.

    Safetensors are preferred to torch's format.

    >>> needed_files({"config.json", "model.safetensors", "pytorch_model.bin", "a.h5"})
    ['config.json', 'model.safetensors']
    """
    stem, _, ending = (PICKLED if _only_pickles(names) else SAFE).rpartition(".")
    shard = re.compile(rf"{stem}(-\d+-of-\d+)?\.{ending}(\.index\.json)?")
    kept = {CONFIG, *EXTRACTORS}
    return sorted(name for name in names if name in kept or shard.fullmatch(name))


def _only_pickles(names: set[str]) -> bool:
    return not names & {SAFE, f"{SAFE}.index.json"}


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the files of a folder that belong to its checkpoint."""
    names = {file.name for file in folder.iterdir() if file.is_file()}
    return [folder / name for name in needed_files(names)]


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's ``config.json``.

    Raises:
        UserError: there is no such file, or it is no JSON object, or the folder has
            adapters, which are not read.
    """
    if (folder / ADAPTERS).is_file():
        raise UserError(
            f"model: {folder}: has unmerged adapters of PEFT ({ADAPTERS}); merge them "
            "(merge_and_unload), and save the whole model"
        )
    return read_json(folder / CONFIG, "a folder as Transformers writes it is needed")


def extractor_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder's feature extractor.

    Raises:
        UserError: the folder has none.
    """
    for name in EXTRACTORS:
        if (folder / name).is_file():
            settings = read_json(folder / name, "")
            settings = settings.get("feature_extractor", settings)
            if "feature_extractor_type" in settings or "sampling_rate" in settings:
                return settings
    raise UserError(
        f"model: {folder}: no {EXTRACTORS[0]}, the settings of its features; copy it "
        "from where the model comes from"
    )


def read_json(file: Path, hint: str) -> dict[str, Any]:
    """Return the object in a JSON file; ``hint`` is added if the file is missing."""
    if not file.is_file():
        raise UserError(f"model: {file}: {no_file(file)}; {hint}")
    content = parse_json(file.read_bytes(), f"model: {file}", "get it again")
    if not isinstance(content, dict):
        raise UserError(f"model: {file}: not a JSON object; get it again")
    return content


def read_tensors(
    folder: Path, choose: Callable[[set[str]], dict[str, str]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield chosen tensors of a folder's checkpoint, and read no others.

    Args:
        folder: of one file of weights, or of several and their index.
        choose: from the names of all tensors to new names by old ones.

    Yields:
        New name and tensor.

    Raises:
        UserError: weights are missing or unreadable, or their pickle holds more than
            tensors.
    """
    files = _weight_files(folder)
    new_names = choose({name for names in files.values() for name in names})
    for file, names in files.items():
        chosen = [name for name in names if name in new_names]
        for name, tensor in _read(file, chosen):
            yield new_names[name], tensor


def _weight_file(folder: Path) -> Path | None:
    """Return a folder's file of weights, or the index of several; safetensors first."""
    for name in (SAFE, f"{SAFE}.index.json", PICKLED, f"{PICKLED}.index.json"):
        if (folder / name).is_file():
            return folder / name
    return None


def _shards(folder: Path) -> list[Path]:
    """Return the files of weights that a folder should have; [] if it has none."""
    main = _weight_file(folder)
    if main is None or main.suffix != ".json":
        return [main] if main else []
    places = read_json(main, "").get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"model: {main}: no weight_map; get it again")
    return sorted({folder / name for name in places.values()})


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """Return the names of the tensors in each file of a folder's checkpoint."""
    files = _shards(folder)
    if not files:
        raise UserError(f"model: {folder}: no {SAFE}, the weights of the model")
    for file in files:
        if not file.is_file():
            raise UserError(f"model: {file}: {no_file(file)}, a part of the weights")
    return {file: _tensor_names(file) for file in files}


def _tensor_names(file: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return list(_load_pickle(file))
    try:
        with safe_open(file, "pt") as tensors:
            return list(tensors.keys())
    except SafetensorError as error:
        raise UserError(
            f"model: {file}: cut off or not a safetensors file ({error}); get it again"
        ) from None


def _read(file: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        content = _load_pickle(file)
        yield from ((name, content[name]) for name in names)
        return
    with safe_open(file, "pt") as tensors:
        for name in names:
            yield name, tensors.get_tensor(name)


def _load_pickle(file: Path) -> dict[str, Tensor]:
    """Read a file of torch's that holds tensors alone; nothing in it is run."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise UserError(
                f"model: {file}: a pickle with more than tensors, which could run code "
                "when loaded; save the model as model.safetensors"
            ) from None
        raise UserError(f"model: {file}: cut off or not a torch file") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError):
        raise UserError(f"model: {file}: cut off or not a torch file") from None
    if not isinstance(content, dict):
        raise UserError(f"model: {file}: no table of tensors")
    return {name: value for name, value in content.items() if torch.is_tensor(value)}
