"""Loading with every weight in its place, and one clear line where that fails."""

from __future__ import annotations

import os

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

from espnet_mtla.errors import UserError, transport_errors


class CheckedLoading:
    """``from_pretrained`` that leaves nothing at random.

    Transformers fills what a checkpoint lacks with random numbers and says so in a
    warning. Here that is an error, but for the output layer of a model saved without
    one. With ``output_loading_info=True`` the lists are the caller's to look at.
    """

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs
    ):
        """A model as saved; see Transformers' own for the arguments.

        Pickles are not read, unless ``use_safetensors=False`` asks for that.

        Raises:
            UserError: nothing there, a pickle, or weights missing or left over.
        """
        name = str(pretrained_model_name_or_path)
        check_reachable(name, **kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("use_safetensors", True)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise UserError(
                f"{name}: model.safetensors is not a safetensors file ({error}); save "
                "the model again with save_pretrained"
            ) from error
        except OSError as error:
            raise UserError(_explain(name, error)) from error
        if wants_info:
            return model, info
        if not kwargs.get("ignore_mismatched_sizes"):
            _check(name, info)
        return model


def check_reachable(
    name: str,
    cache_dir: str | os.PathLike | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **others: object,
) -> None:
    """Say at once that the hub cannot be reached: its client tries for a minute.

    Raises:
        UserError: no such folder, nothing of this name downloaded before, no hub.
    """
    del others
    if os.path.exists(name) or local_files_only or constants.HF_HUB_OFFLINE:
        return
    try:
        if try_to_load_from_cache(name, "config.json", cache_dir, revision) is None:
            HfApi(token=token).model_info(name, revision=revision, timeout=10)
    except (HfHubHTTPError, HFValidationError):
        return  # an answer, or no name: from_pretrained says which
    except transport_errors() as error:
        raise UserError(
            f"{name}: no such folder, not downloaded before, and the hub cannot be "
            f"reached ({error})"
        ) from error


def _check(name: str, info: dict[str, object]) -> None:
    for kind in ("missing", "unexpected"):
        keys = sorted(
            key for key in info[f"{kind}_keys"] if not key.startswith("lm_head.")
        )
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(
                f"{name}: {kind} weights: {', '.join(keys[:3])}{more}; the checkpoint "
                "is not of this configuration"
            )


def _explain(name: str, error: OSError) -> str:
    if os.path.isdir(name):
        pickles = [file for file in os.listdir(name) if file.endswith((".bin", ".pt"))]
        if pickles:
            return (
                f"{os.path.join(name, pickles[0])}: a pickle, which can run code when "
                "it is read; model.safetensors is needed (or use_safetensors=False)"
            )
        return f"{name}: no model.safetensors in this folder"
    reason = str(error).strip().splitlines()[0]
    return f"{name}: no such folder, and no such model on the hub ({reason})"
