"""A tiny language model in place of the one on the hub that a training YAML names."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from espnet_mtla.data.tokens import TokenOptions, tokenise
from test.support.tiny_checkpoints import save_tiny
from test.support.tiny_tokenizer import byte_level

ROWS = 324


def use_tiny_language_model(args: Namespace, folder: Path) -> None:
    """Change options of ``decoder: pretrained`` to a tiny checkpoint and its tokens."""
    source, tokens = folder / "lm", folder / "tokens"
    save_tiny(source, "llama_tied", vocab_size=ROWS)
    config = (source / "config.json").read_text()
    byte_level(source)
    (source / "config.json").write_text(config)
    tokenise(["one text"], tokens, TokenOptions("hf", hf_tokenizer=str(source)))
    args.token_type, args.bpemodel = "hf", str(tokens / "tokenizer")
    args.token_list = str(tokens / "tokens.txt")
    args.decoder_conf = {**args.decoder_conf, "model": str(source)}
