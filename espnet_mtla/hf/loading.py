"""Load models only if every weight matches; report failures in one line."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from espnet_mtla.errors import UserError, no_file, transport_errors
from espnet_mtla.hf.versions import check_transformers
from espnet_mtla.settings.checks import refuse_unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Self
else:  # a mixin: its subclasses also inherit Transformers' own class
    PreTrainedModel = object

SOURCE_KEYWORDS = ("cache_dir", "revision", "token", "local_files_only")
"""Keywords of ``from_pretrained`` that locate a model."""
OLDER_SAVING = ("save_function", "safe_serialization")
"""Keywords of ``save_pretrained`` before Transformers 5 that trainers still pass."""


class CheckedLoading(PreTrainedModel):
    """A ``from_pretrained`` that leaves no weight at random.

    Transformers initialises weights that a checkpoint lacks at random, with a warning.
    Here that is an error, except for the output layer of a model saved without one.
    With ``output_loading_info=True`` the lists are returned and nothing is refused.
    """

    if TYPE_CHECKING:  # Transformers' decorator hides the parameters of ``to``

        def to(self, *args: Any, **kwargs: Any) -> Self: ...  # type: ignore[override]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Load a saved model; see Transformers for the arguments.

        Pickles are read only with ``use_safetensors=False``.

        Raises:
            UserError: there is no model, it is a pickle, or weights are missing,
                unexpected or of another size.
        """
        load = super().from_pretrained
        return checked(
            load, pretrained_model_name_or_path, *args, spare=("lm_head.",), **kwargs
        )


def checked(
    load: Callable[..., Any],
    source: str | os.PathLike[str] | None,
    *args: Any,
    spare: tuple[str, ...] = (),
    **kwargs: Any,
) -> Any:
    """Call ``load``, a ``from_pretrained`` of Transformers, and check the weights.

    Args:
        load: the method.
        source: folder, or name on the hub.
        args: further arguments of ``load``.
        spare: prefixes of weights that may be missing or unexpected.
        kwargs: keywords of ``load``.

    Raises:
        UserError: see :meth:`CheckedLoading.from_pretrained`.
    """
    check_transformers()
    name = str(source)
    where = {key: kwargs[key] for key in SOURCE_KEYWORDS if key in kwargs}
    check_reachable(name, **where)
    if os.path.isdir(name) and "config" not in kwargs:
        _check_has_config(os.path.join(name, kwargs.get("subfolder") or ""))
    wants_info = kwargs.pop("output_loading_info", False)
    any_size = kwargs.pop("ignore_mismatched_sizes", False)
    kwargs.setdefault("use_safetensors", True)
    kwargs.update(output_loading_info=True, ignore_mismatched_sizes=True)
    try:
        model, info = load(source, *args, **kwargs)
    except SafetensorError as error:
        raise UserError(
            f"{_unreadable(name) or name}: cut off or not a safetensors file "
            f"({error}); save the model again with save_pretrained"
        ) from error
    except OSError as error:
        raise UserError(_explain(name, error)) from error
    missing = info["missing_keys"]  # a set, and with Transformers 4 a list
    info["missing_keys"] = type(missing)([*missing, *_left_empty(model)])
    if not any_size:
        _check(name, info, ("mismatched",), ())
    if wants_info:
        return model, info
    if not any_size:
        _check(name, info, ("missing", "unexpected"), spare)
    return model


def _left_empty(model: nn.Module) -> list[str]:
    """Return weights that the index lists in a shard, but the shard does not hold.

    Transformers 4 leaves them without data and reports nothing.
    """
    if getattr(model, "hf_device_map", None):  # offloaded weights have no data either
        return []
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def read_config(name: str) -> PretrainedConfig:
    """Read the configuration of a checkpoint of Transformers.

    Args:
        name: folder, or name on the hub.

    Raises:
        UserError: there is none, or it needs code of its own.
    """
    check_transformers()
    check_reachable(name)
    if os.path.isdir(name):
        _check_has_config(name)
    try:
        # Without the keyword Transformers would ask on the terminal.
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{name}: not a checkpoint of Transformers ({reason})"
        ) from error


def check_reachable(
    name: str,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> None:
    """Report at once that the hub cannot be reached: its client retries for a minute.

    Args:
        name: folder, or name on the hub.
        cache_dir: of downloads; None: the hub's default.
        revision: branch, tag or commit.
        token: of the hub.
        local_files_only: do not ask the hub.

    Raises:
        UserError: no such folder, not downloaded before, and no connection.
    """
    if os.path.exists(name) or local_files_only or constants.HF_HUB_OFFLINE:
        return
    try:
        if try_to_load_from_cache(name, "config.json", cache_dir, revision) is None:
            HfApi(token=token).model_info(name, revision=revision, timeout=10)
    except (HfHubHTTPError, HFValidationError):
        return  # the hub answers, or the name is invalid: from_pretrained reports it
    except transport_errors() as error:
        raise UserError(
            f"{name}: no such folder, not downloaded before, and the hub cannot be "
            f"reached ({error})"
        ) from error


def check_saving(save: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Refuse keywords that ``save_pretrained`` of Transformers would ignore.

    With ``push_to_hub`` unknown keywords go to the hub's client, which refuses them.

    Raises:
        UserError: a keyword is unknown.
    """
    if not keywords.get("push_to_hub"):
        unknown = keywords.keys() - inspect.signature(save).parameters.keys()
        refuse_unknown(save, sorted(unknown), OLDER_SAVING)


def _check_has_config(folder: str) -> None:
    """Require a configuration: without one Transformers builds a 7B model."""
    files = [os.path.join(folder, f"{of}config.json") for of in ("", "adapter_")]
    if any(map(os.path.isfile, files)):
        return
    if os.path.isfile(os.path.join(folder, "config.yaml")):
        raise UserError(
            f"{folder}: a model of a recipe; load it by from_packed of the classes in "
            "espnet_mtla.hf.speech"
        )
    raise UserError(
        f"{files[0]}: {no_file(files[0])}; the folder has no model configuration"
    )


def _unreadable(folder: str) -> str | None:
    """Return the first file of a folder that is not valid safetensors, or None."""
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError:
            return str(path)
    return None


def _check(
    name: str, info: dict[str, Any], faults: tuple[str, ...], spare: tuple[str, ...]
) -> None:
    """Raise :class:`UserError` if the loading info lists weights with these faults."""
    for fault in faults:
        # Transformers 5 lists mismatched weights as (name, size, size).
        entries = info[f"{fault}_keys"]
        keys = {entry if isinstance(entry, str) else entry[0] for entry in entries}
        keys = {key for key in keys if not key.startswith(spare)}
        if keys:
            shown = ", ".join(sorted(keys)[:3])
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(
                f"{name}: {fault} weights: {shown}{more}; the checkpoint is not of "
                "this configuration"
            )


def _explain(name: str, error: OSError) -> str:
    """Return one line on why no model could be loaded."""
    reason = str(error).strip().splitlines()[0]
    if os.path.isdir(name):
        if "config" in reason or os.path.exists(
            os.path.join(name, "model.safetensors.index.json")
        ):
            return f"{name}: {reason}"
        pickles = [file for file in os.listdir(name) if file.endswith((".bin", ".pt"))]
        if pickles:
            return (
                f"{os.path.join(name, pickles[0])}: a pickle, which can run code when "
                "it is loaded; model.safetensors is needed (or use_safetensors=False)"
            )
        return f"{name}: no model.safetensors in this folder"
    return f"{name}: no such folder, and no such model on the hub ({reason})"
