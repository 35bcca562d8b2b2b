"""Small tokenizers of Transformers: byte-level pieces, and pieces with word marks."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

LINES = [
    "low mid high low low",
    "mid high mid, it's high and low",
    "a café in Zürich <b> 你好 ☃",
    "Transcribe the speech: Translate it.",
    "user assistant system",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(folder: Path, pieces: int = 320, rows: int | None = None) -> Path:
    """Write a tokenizer as GPT-2's, with a chat template; ``rows`` of its model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[2]
    )
    whole.chat_template = CHAT
    whole.save_pretrained(folder)
    return with_rows(folder, rows)


def word_marks(folder: Path, rows: int | None = None) -> Path:
    """Write a tokenizer as Llama's, of pieces that begin with "▁" and single bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    strip = decoders.Strip(" ", 1, 0)
    parts = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        strip,
    ]
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special[:3], show_progress=False
    )
    # As in sentencepiece's models, no piece has the end of one word and another word.
    words = [f"▁{word}" for line in LINES for word in line.split()]
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    vocab = state["model"]["vocab"]
    for token in (*special, "\n"):
        vocab.setdefault(token, len(vocab))
    whole = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    whole.save_pretrained(folder)
    return with_rows(folder, rows)


def with_rows(folder: Path, rows: int | None) -> Path:
    """Write the configuration of a model with so many rows beside the tokenizer."""
    if rows is not None:
        (folder / "config.json").write_text(json.dumps({"vocab_size": rows}))
    return folder
