"""Download models from a hub by name, and upload them."""

from __future__ import annotations

import re
from pathlib import Path

from espnet_mtla.errors import UserError, hub_errors
from espnet_mtla.settings.names import CONFIG, README, WEIGHTS

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_model(model: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a model, downloaded from the hub if need be.

    Args:
        model: a folder, or OWNER/NAME on the hub.
        revision: branch, tag or commit on the hub; None: the main branch.

    Raises:
        UserError: no such folder, and the name is neither on the hub nor in its cache.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(model, str) or not _NAME.fullmatch(model):
        raise UserError(
            f"{model}: no such folder, and not a name on the hub (owner/name)"
        )
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise UserError(
            f"{model}: no such folder; to download models: pip install huggingface_hub"
        ) from None
    with hub_errors(model):
        return Path(snapshot_download(model, revision=revision))


def upload(folder: Path, name: str, token: str, private: bool = False) -> str:
    """Upload a packed model to the hub in one commit; return its address.

    Args:
        folder: written by :func:`espnet_mtla.share.pack.pack`.
        name: OWNER/NAME; the repository is created if it does not exist.
        token: with write access.
        private: create the repository as private.

    Raises:
        UserError: the folder is not a packed model or has a link to a file outside,
            the name is invalid, or the hub refuses.
    """
    from huggingface_hub import HfApi

    for file in (WEIGHTS, CONFIG, README):
        if not (folder / file).is_file():
            raise UserError(
                f"{folder}: no {file}, not a packed model; `espnet-mtla pack` makes one"
            )
    _refuse_links_out(folder)
    if not _NAME.fullmatch(name):
        raise UserError(f"{name}: owner/name is needed")
    api = HfApi(token=token)
    with hub_errors(name):
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="A model packed by espnet_mtla",
            ignore_patterns=[".*"],  # such as the pipeline's marks of finished stages
        )
    return f"{api.endpoint}/{name}"


def _refuse_links_out(folder: Path) -> None:
    """Raise UserError for a symbolic link that leads out of the folder.

    The upload follows links: it would publish any file that one names.
    """
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if inside not in (target := path.resolve()).parents:
            raise UserError(
                f"{path}: a link to {target}, outside the folder; it would be "
                "published: put the file itself there, or remove the link"
            )
