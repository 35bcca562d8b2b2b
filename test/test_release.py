"""What people look for who adopt the project: versions that agree, forms that parse."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import espnet_mtla
from test.support.repository import COMMANDS, ROOT, relative

GITHUB = ROOT / ".github"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
FORMS = [GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "feature")]
FILES = [
    *(ROOT / name for name in ("CITATION.cff", ".pre-commit-config.yaml")),
    *sorted(GITHUB.rglob("*.yml")),
]
RELEASE = re.match(r"\d+\.\d+\.\d+", espnet_mtla.__version__)
assert RELEASE
VERSION = RELEASE[0]


def load(path: Path) -> Any:
    """YAML 1.1 reads the key ``on`` of a workflow as true."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_yaml_files_parse(path: Path) -> None:
    assert isinstance(load(path), dict)


def test_versions_agree() -> None:
    headings = re.findall(r"^## (\S+) - (\S+)$", CHANGELOG, re.MULTILINE)
    assert headings[0][0] == load(ROOT / "CITATION.cff")["version"] == VERSION
    dates = [date for _, date in headings]
    assert dates[0] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", dates[0])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates[1:])
    assert sorted(dates[1:], reverse=True) == dates[1:]


def test_the_changelog_has_the_usual_sections() -> None:
    usual = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for release in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        sections = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert sections and set(sections) <= usual
        assert len(set(sections)) == len(sections)


def test_the_citation_names_the_paper_and_this_project() -> None:
    """Keys that the schema of the Citation File Format 1.2.0 requires, and ours."""
    citation = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert (citation["type"], citation["license"]) == ("software", "Apache-2.0")
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= paper.keys()
    names = [(a["given-names"], a["family-names"]) for a in paper["authors"]]
    assert names == [("Keqi", "Deng"), ("Philip C.", "Woodland")]
    assert paper["title"] == "Multi-head Temporal Latent Attention"
    assert paper["identifiers"][0]["value"] == "arXiv:2505.13544"


@pytest.mark.parametrize("path", FORMS, ids=relative)
def test_forms_are_what_github_takes(path: Path) -> None:
    form = load(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("markdown", "input", "textarea", "dropdown")
        asked = "value" if field["type"] == "markdown" else "label"
        assert field["attributes"][asked].strip()
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_bug_form_asks_for_the_doctor() -> None:
    text = FORMS[0].read_text(encoding="utf-8")
    assert "espnet-mtla doctor" in text
    for command in re.findall(r"espnet-mtla (\w+)", text):
        assert command in COMMANDS


def test_hooks_call_what_the_tests_call() -> None:
    """ruff and shellcheck come from the environment; other hooks are pinned."""
    for repo in load(ROOT / ".pre-commit-config.yaml")["repos"]:
        if repo["repo"] != "local":
            assert re.fullmatch(r"v\d+\.\d+\.\d+", repo["rev"])
            continue
        script = (ROOT / "utils" / "test.sh").read_text(encoding="utf-8")
        for hook in repo["hooks"]:
            tool, *words = hook["entry"].split()
            assert hook["language"] == "system"
            assert re.search(rf"\b{tool}\b", script), f"utils/test.sh has no {tool}"
            if tool == "ruff":
                assert f"ruff {words[0]}" in script


def test_no_address_of_this_project_is_made_up() -> None:
    """Addresses of this repository are not known yet; those of others are."""
    documents = [ROOT / name for name in ("CHANGELOG.md", "SECURITY.md")]
    documents += [GITHUB / "PULL_REQUEST_TEMPLATE.md", *FILES]
    known = (
        *("https://keepachangelog.com/", "https://semver.org", "https://arxiv.org/"),
        *("https://github.com/pre-commit/", "https://download.pytorch.org/"),
    )
    for path in documents:
        text = path.read_text(encoding="utf-8")
        for address in re.findall(r"https?://[^\s)>\"']+", text):
            assert address.startswith(known), f"{relative(path)}: {address}"


def test_only_the_last_job_can_publish() -> None:
    workflow = load(GITHUB / "workflows" / "release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    publish = jobs.pop("publish")
    assert set(publish["needs"]) == set(jobs)
    assert publish["environment"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert not any("permissions" in job for job in jobs.values())
    uses = [step.get("uses", "") for step in publish["steps"]]
    assert uses[-1].startswith("pypa/gh-action-pypi-publish@")
    assert not any("run" in step for step in publish["steps"])


@pytest.mark.parametrize(
    ("tag", "heading", "error"),
    [
        (f"v{VERSION}", f"## {VERSION} - 2026-12-01", ""),
        (f"v{VERSION}", f"## {VERSION} - unreleased", f"not '## {VERSION} - DATE'"),
        (f"v{VERSION}", "## 0.0.9 - 2026-12-01", "CHANGELOG.md begins with '## 0.0.9"),
        ("v9.9.9", f"## {VERSION} - 2026-12-01", "tag v9.9.9, but espnet_mtla"),
        (VERSION, f"## {VERSION} - 2026-12-01", f"tag {VERSION}, but espnet_mtla"),
    ],
)
def test_a_tag_that_is_not_the_version_stops_the_release(
    tmp_path: Path, tag: str, heading: str, error: str
) -> None:
    """The workflow's own step, in a folder of its own."""
    steps = load(GITHUB / "workflows" / "release.yml")["jobs"]["build"]["steps"]
    (script,) = (step["run"] for step in steps if "GITHUB_REF_NAME" in str(step))
    (tmp_path / "espnet_mtla").mkdir()
    shutil.copy(ROOT / "espnet_mtla" / "__init__.py", tmp_path / "espnet_mtla")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n## 0.0.1\n")
    (tmp_path / "bin").mkdir()
    python = shutil.which("python") or shutil.which("python3")
    assert python
    (tmp_path / "bin" / "python").symlink_to(python)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "GITHUB_REF_NAME": tag},
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == bool(error), done.stderr
    assert error in done.stderr


def test_badges_are_true() -> None:
    """The README's Pythons are those that are installed for and tested."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    install = (ROOT / "utils" / "install.sh").read_text(encoding="utf-8")
    found = re.findall(r"^(OLDEST|NEWEST)=(\d+)", install, re.MULTILINE)
    bounds = {name: int(number) for name, number in found}
    (badge,) = re.findall(r"badge/python-3\.(\d+)_to_3\.(\d+)-", readme)
    assert tuple(map(int, badge)) == (bounds["OLDEST"], bounds["NEWEST"])
    tested = load(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    minors = range(bounds["OLDEST"], bounds["NEWEST"] + 1)
    assert tested["python"] == [f"3.{minor}" for minor in minors]
    assert "license-Apache--2.0-" in readme
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
