"""Models by name: found on a hub, or put there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from espnet_mtla.errors import UserError, transport_errors
from espnet_mtla.settings.names import CONFIG, README, WEIGHTS

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_model(model: str | Path, revision: str | None = None) -> Path:
    """The folder of a model: itself, or what the hub holds under this name.

    Raises:
        UserError: no such folder, and no name that the hub knows or that was downloaded
            before.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(model, str) or not _NAME.fullmatch(model):
        raise UserError(f"{model}: no such folder, and not owner/name as on the hub")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise UserError(
            f"{model}: no such folder; for models of the hub: pip install "
            "huggingface_hub"
        ) from None
    with hub_errors(model):
        return Path(snapshot_download(model, revision=revision))


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """What the hub's client raises, as one line that says the way out."""
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the hub has no such revision") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such folder here and no such model on the hub; a private one "
            "needs a token in HF_TOKEN"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise UserError(
            f"{name}: no such folder, not downloaded before, and the hub cannot be "
            "reached; give a folder"
        ) from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        hint = "; is the token right?" if code in (401, 403) else ""
        raise UserError(f"{name}: the hub answers {code}{hint}") from None
    except transport_errors() as error:
        raise UserError(f"{name}: the hub cannot be reached: {error}") from None


def upload(folder: Path, name: str, token: str, private: bool = False) -> str:
    """Put a packed model on the hub, in one commit; returns its address.

    Raises:
        UserError: no packed model, a name that is none, or the hub refuses.
    """
    from huggingface_hub import HfApi

    for file in (WEIGHTS, CONFIG, README):
        if not (folder / file).is_file():
            raise UserError(
                f"{folder}: no {file}; python -m espnet_mtla.bin.pack makes such a "
                "folder"
            )
    if not _NAME.fullmatch(name):
        raise UserError(f"{name}: owner/name is needed")
    api = HfApi(token=token)
    with hub_errors(name):
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="A model packed by espnet_mtla",
            # Marks of the pipeline, and the like.
            ignore_patterns=[".*"],
        )
    return f"{api.endpoint}/{name}"
