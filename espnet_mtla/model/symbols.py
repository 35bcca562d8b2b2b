"""Token list of a model, and the tokens that begin and end its texts."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from espnet_mtla.data.hf_tokens import HFTokeniser
from espnet_mtla.data.token_list import read_token_list
from espnet_mtla.data.tokens import SOS_EOS
from espnet_mtla.errors import UserError
from espnet_mtla.model.config import ModelConfig

if TYPE_CHECKING:
    from espnet_mtla.model.base import DecoderOnlyModel


def has_hf_tokens(args: Namespace) -> bool:
    """Return True if the tokens are those of a Transformers tokenizer."""
    return getattr(args, "token_type", None) == "hf"


def read_tokens(args: Namespace) -> list[str]:
    """Return the token list that ``args`` name or contain."""
    return read_token_list(args.token_list, "hf" if has_hf_tokens(args) else None)


def check_ctc(args: Namespace, config: ModelConfig) -> None:
    """Refuse CTC over the tokens of a language model."""
    if config.uses_ctc and has_hf_tokens(args):
        raise UserError(
            f"model_conf.ctc_weight: {config.ctc_weight} given, 0 needed with "
            "token_type hf: the vocabulary of a language model has no <blank>"
        )


def set_symbols(model: DecoderOnlyModel, args: Namespace) -> None:
    """Set the tokens before and after each text, as options and tokeniser say.

    Raises:
        UserError: the token list lacks one of them, or is another tokenizer's.
    """
    sos = eos = SOS_EOS
    if has_hf_tokens(args):
        tokeniser = HFTokeniser(args.bpemodel)
        tokeniser.check_list(model.token_list, f"bpemodel: {args.bpemodel}")
        sos, eos = tokeniser.sos, tokeniser.eos
    model.sos = _token_id(model, "sym_sos", model.config.sym_sos or sos)
    model.eos = _token_id(model, "sym_eos", model.config.sym_eos or eos)
    model.blank = model.eos if has_hf_tokens(args) else 0


def _token_id(model: DecoderOnlyModel, option: str, token: str) -> int:
    if token not in model.token_list:
        raise UserError(f"model_conf.{option}: {token!r} is not in the token list")
    return model.token_list.index(token)
