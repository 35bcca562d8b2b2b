"""Versions of Transformers: those tried, older ones and newer ones."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from espnet_mtla.errors import UserError
from espnet_mtla.hf import LlamaMTLAConfig, LlamaMTLAForCausalLM, versions
from test.support.tiny_llama import SIZES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def version(monkeypatch):
    """Pretend that another version is installed, and that nothing was used yet."""

    def pretend(number: str) -> None:
        # Importing PEFT leaves another module in sys.modules than was there before.
        monkeypatch.setattr(versions.transformers, "__version__", number)
        versions.check_transformers.cache_clear()

    yield pretend
    versions.check_transformers.cache_clear()


@pytest.mark.parametrize("number", ["4.57.0", "4.57.6", "4.99.1", "5.0.0", "5.24.3"])
def test_versions_inside_the_range_are_not_spoken_of(version, caplog, number) -> None:
    version(number)
    LlamaMTLAConfig(**SIZES)
    assert not caplog.records


@pytest.mark.parametrize("number", ["5.25.0", "5.25.0.dev0", "5.100.0rc1", "6.0.0"])
def test_the_first_use_of_a_newer_one_is_one_line(version, caplog, number) -> None:
    version(number)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            LlamaMTLAConfig(**SIZES)
    (record,) = caplog.records
    message = record.getMessage()
    assert f"transformers {number} is newer" in message and "tried, 5.24;" in message
    assert "doctor" in message and "\n" not in message


@pytest.mark.parametrize("number", ["4.56.9", "4.9.0", "3.5.1"])
def test_older_ones_are_refused(version, number) -> None:
    version(number)
    needed = rf"transformers {number}: 4\.57 or newer is needed; pip install 'tr"
    for use in (LlamaMTLAConfig, lambda: LlamaMTLAForCausalLM.from_pretrained("x")):
        with pytest.raises(UserError, match=needed) as raised:
            use()
        assert "\n" not in str(raised.value)


OLD = """
from dataclasses import dataclass
__path__ = []
def __getattr__(name):
    return type(name, (), {})
"""
OLD_FILES = {
    "__init__": OLD.replace("__path__ = []", "__version__ = '4.46.3'"),
    "cache_utils": "class Cache: ...",  # CacheLayerMixin is newer
    "modeling_outputs": """
from dataclasses import dataclass
@dataclass
class BaseModelOutputWithPast:
    past_key_values: tuple = None
class Seq2SeqLMOutput: ...
""",
    "models/__init__": "",
    "models/auto/__init__": "",
    "models/auto/modeling_auto": OLD,
}


@pytest.mark.parametrize("package", ["hf", "hf_speech"])
def test_an_older_one_is_refused_before_a_name_is_missed(package, tmp_path) -> None:
    for name, text in OLD_FILES.items():
        path = tmp_path / "transformers" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", f"import espnet_mtla.{package}"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("espnet_mtla.errors.UserError: transformers 4.46.3: 4.57 or")


def test_the_installed_version_is_one_of_those_tried() -> None:
    oldest, newest = versions.OLDEST_TRANSFORMERS, versions.NEWEST_TRANSFORMERS
    minor = versions._minor
    assert minor(oldest) <= minor(transformers.__version__) <= minor(newest)
    newer = minor(transformers.__version__) >= (5, 24)
    assert versions.CACHE_NAMES[0 if newer else 1] == versions.CACHE_NAME


def test_what_is_no_version_is_named(version) -> None:
    version("main")
    with pytest.raises(UserError, match="'main' is no version number"):
        LlamaMTLAConfig(**SIZES)
