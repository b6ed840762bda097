"""Tested releases: what is written in three places agrees, and an untested one is told in one line."""

import re
import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.version import Version
from tiny_finetunes import finetuned, tiny_base
from tiny_models import ROWS, conversations_of

from hf_instructmine import Perplexity, versions
from hf_instructmine.versions import TESTED, check_versions


ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def unseen():
    versions._check.cache_clear()
    yield
    versions._check.cache_clear()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def floors() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(text) for text in project["dependencies"]]
    return {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in requirements}


@pytest.mark.parametrize("name", TESTED)
def test_the_oldest_tested_release_is_the_lower_bound(name):
    assert Version(TESTED[name][0]) == Version(floors()[name])


@pytest.mark.parametrize("name", sorted(TESTED.keys() - {"torch"}))
def test_the_newest_tested_release_is_the_one_that_make_test_installs(name):
    assert Version(TESTED[name][1]) == Version(pinned()[name])


def test_make_test_installs_a_tested_torch():
    oldest, newest = map(Version, TESTED["torch"])
    assert oldest <= Version(pinned()["torch"]) <= newest


def test_every_requirement_is_pinned_to_one_release():
    assert set(floors()) <= set(pinned())
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", release) for release in pinned().values())


def test_no_installed_library_is_older_than_the_tested_ones(caplog):
    check_versions(*TESTED)
    assert not [record for record in caplog.records if "older" in record.getMessage()]


def test_nothing_that_is_called_here_is_deprecated(tmp_path, caplog, recwarn):
    transformers.utils.logging.enable_propagation()
    try:
        base = tiny_base(tmp_path / "base")
        Perplexity(base)(conversations_of(ROWS))
        finetuned(base, tmp_path / "run", bf16=True)
    finally:
        transformers.utils.logging.disable_propagation()
    said = [str(warning.message) for warning in recwarn] + [record.getMessage() for record in caplog.records]
    assert not [line for line in said if "deprecated" in line.lower() or "ignoring" in line.lower()]


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ("4.57.0", "transformers 4.57.0 is older than any that was tested with hf-instructmine"),
        ("6.1.0", "transformers 6.1.0 is newer than any that was tested with hf-instructmine"),
    ],
)
def test_an_untested_release_is_told_once_with_the_mend(monkeypatch, caplog, installed, said):
    monkeypatch.setattr(versions, "version", lambda _: installed)
    check_versions("transformers")
    check_versions("transformers")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(said)
    oldest, newest = TESTED["transformers"]
    assert f"({oldest} to {newest})" in line
    mend = Requirement(re.search(r"pip install '(.*)'", line)[1])
    assert all(mend.specifier.contains(release) for release in TESTED["transformers"])
    assert not mend.specifier.contains(installed)


def test_a_patch_release_of_a_tested_one_is_fine(monkeypatch, caplog):
    monkeypatch.setattr(versions, "version", lambda name: f"{TESTED[name][1]}.post1")
    check_versions("transformers")
    assert not caplog.records
