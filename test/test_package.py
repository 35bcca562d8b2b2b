"""The wheel and the source distribution, installed outside of a checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TRY_WHEEL = """
import sys
from importlib.metadata import version
import espnet_mtla, torch
assert not espnet_mtla.__file__.startswith(sys.argv[1]), espnet_mtla.__file__
assert espnet_mtla.__version__ == version("espnet-mtla")
from espnet_mtla import MultiheadTemporalLatentAttention as Attention
attention = Attention(embed_dim=16, num_heads=2, kv_lora_rank=8, qk_rope_head_dim=4,
                      qk_nope_head_dim=4, v_head_dim=4, down_rate=2).eval()
x = torch.randn(1, 5, 16)
out = attention(query=x, key=x, value=x)
print(tuple(out.shape))
"""

# No finder finds the packages that belong to recipes, as where they are not installed.
WITHOUT = """
import sys
names = {"torchaudio", "s3prl", "espnet2", "espnet", "soundfile", "sentencepiece"}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in names:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
"""

CORE = """
import espnet_mtla.attention, espnet_mtla.decoder, espnet_mtla.search
print("core")
"""

HF = """
import torch
from espnet_mtla.hf import LlamaMTLAConfig, LlamaMTLAForCausalLM
config = LlamaMTLAConfig(vocab_size=11, hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=2, kv_lora_rank=8,
                         qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=4)
model = LlamaMTLAForCausalLM(config).eval()
tokens = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, min_new_tokens=4)
print(tuple(tokens.shape))
"""


def run(command: list[str | Path], **options) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist of the tracked files, and a wheel built from it."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    names = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=ROOT).split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree])
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def sources() -> set[str]:
    """Return the paths in the wheel of the files in the checkout."""
    files = {str(path.relative_to(ROOT)) for path in ROOT.glob("espnet_mtla/**/*.py")}
    confs = (path.relative_to(ROOT) for path in ROOT.glob("conf/*/*.yaml"))
    return files | {f"espnet_mtla/{path}" for path in confs} | {"espnet_mtla/py.typed"}


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == sources()


def test_source_distribution_holds_what_builds_it(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "setup.py", "LICENSE", "README.md"} <= names
    assert {path.replace("espnet_mtla/conf", "conf") for path in sources()} <= names


def test_metadata_says_what_it_is(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    (info,) = tmp_path.glob("*.dist-info")
    metadata = PathDistribution(info).metadata
    assert metadata["Name"] == "espnet-mtla"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    extras = set(metadata.get_all("Provides-Extra"))
    assert extras == {"recipes", "hf", "lora", "ssl", "serve", "flash", "dev"}
    core = [line for line in metadata.get_all("Requires-Dist") if "extra" not in line]
    assert [re.match(r"[\w-]+", line)[0] for line in core] == ["torch"]


def test_wheel_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Beside torch, away from the checkout: import, command."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python3"
    install = ["-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"]
    run([sys.executable, *install, "--python", python, wheel])
    # torch is too big to install again: the environment borrows what is installed here.
    (site,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(here) + "\n")
    options = {"cwd": tmp_path, "env": {"PATH": "/usr/bin:/bin"}}
    assert run([python, "-c", TRY_WHEEL, ROOT], **options) == "(1, 5, 16)\n"
    assert "transcribe" in run([folder / "bin" / "espnet-mtla", "--help"], **options)


@pytest.mark.parametrize(
    ("program", "printed"), [(CORE, "core\n"), (HF, "(1, 7)\n")], ids=["core", "hf"]
)
def test_runs_without_the_packages_of_recipes(program: str, printed: str) -> None:
    assert run([sys.executable, "-c", WITHOUT + program], cwd=ROOT) == printed
