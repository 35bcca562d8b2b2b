"""Settings say which field is wrong and what is needed."""

from __future__ import annotations

import re

import pytest

from espnet_mtla.attention import (
    ATTENTIONS,
    MultiheadTemporalLatentAttention,
    attention_settings,
    build_attention,
)
from espnet_mtla.errors import UserError


@pytest.mark.parametrize(
    ("name", "conf", "message"),
    [
        ("mtla", {"down_rate": 0}, "down_rate: 0 given"),
        ("mtla", {"down_rate": 1.5}, "down_rate: 1.5 given"),
        ("mtla", {"down_rate": True}, "down_rate: True given"),
        ("mtla", {"kv_lora_rank": 7}, "kv_lora_rank: 7 given"),
        ("mla", {"qk_rope_head_dim": 3}, "qk_rope_head_dim: 3 given"),
        ("mla", {"down_rate": 2}, "attention_conf.down_rate: unknown key for mla"),
        ("gqa", {"num_kv_heads": 3}, "num_kv_heads: 3 given, a divisor"),
        ("mha", {"head_dim": 5}, "head_dim: 5 given"),
        ("mha", {"rope_base": -1.0}, "rope_base: -1.0 given"),
        # YAML 1.1, which PyYAML reads, takes 1e4 for a word.
        ("mla", {"rope_base": "1e4"}, "rope_base: '1e4' given, a number in (0, inf)"),
        ("mtla", {"bias": "false"}, "bias: 'false' given, true or false"),
        ("mlta", {}, "attention: 'mlta' given, one of mha, gqa, mqa, mla, mtla"),
    ],
)
def test_a_bad_setting_is_named(name: str, conf: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_attention(name, 32, 4, conf=conf)


def test_widths_scale_with_the_model_in_the_papers_proportions() -> None:
    paper = build_attention("mtla", 512, 8).settings
    assert paper == MultiheadTemporalLatentAttention(512, 8).settings
    small = build_attention("mtla", 128, 8)
    assert small.layout.width == 64 + 8
    mha = build_attention("mha", 128, 8)
    assert mha.layout.cache_bytes(100, 0, 1, True, 4) == 100 * 256 * 4
    assert small.layout.cache_bytes(100, 0, 1, True, 4) == 50 * 72 * 4


@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_listed_setting_is_accepted(name: str) -> None:
    defaults = build_attention(name, 32, 4).settings
    conf = {key: getattr(defaults, key) for key in attention_settings(name)}
    assert build_attention(name, 32, 4, conf=conf).settings == defaults


def test_dropout_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match=r"dropout: 1[.]0 given"):
        build_attention("mha", 32, 4, dropout=1.0)
