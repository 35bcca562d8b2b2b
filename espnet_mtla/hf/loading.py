"""Loading with every weight in its place, and one clear line where that fails."""

from __future__ import annotations

import os

from safetensors import SafetensorError

from espnet_mtla.errors import UserError


class CheckedLoading:
    """``from_pretrained`` that leaves nothing at random, and ``save_pretrained``.

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
            _check(name, info, cls.base_model_prefix)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save, and note the stride that the weights belong to."""
        self.config.trained_down_rate = self.config.down_rate
        super().save_pretrained(save_directory, **kwargs)


def _check(name: str, info: dict[str, object], base: str) -> None:
    for kind in ("missing", "unexpected"):
        keys = sorted(
            key for key in info[f"{kind}_keys"] if not key.startswith("lm_head.")
        )
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise UserError(
                f"{name}: {kind} weights: {', '.join(keys[:3])}{more}; the checkpoint "
                f"is not of this configuration ({base} of {len(keys)} keys)"
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
