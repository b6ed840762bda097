"""What takes seconds to import is imported where it is used: not by the package, and not by `--help`."""

import subprocess
import sys

import pytest

import hf_instructmine
from hf_instructmine.cli.main import parsers


HEAVY = {"torch", "transformers", "datasets", "trl", "pandas", "pyarrow", "sklearn", "statsmodels", "matplotlib"}
VERBS = list(parsers()[1])


def imported_by(program: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running a program."""
    run = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print('modules:', *sys.modules)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {name.partition(".")[0] for name in run.stdout.rpartition("modules:")[2].split()}


@pytest.mark.parametrize(
    "program",
    [
        "import hf_instructmine",
        "import hf_instructmine; dir(hf_instructmine); hf_instructmine.InstructMineError",
        "from hf_instructmine.cli.main import _parse\ntry: _parse(['--help'])\nexcept SystemExit: pass",
        *(
            f"from hf_instructmine.cli.main import _parse\ntry: _parse(['{verb}', '--help'])\nexcept SystemExit: pass"
            for verb in VERBS
        ),
    ],
    ids=["import", "dir", "help", *VERBS],
)
def test_nothing_heavy_is_imported(program):
    modules = imported_by(program)
    assert "hf_instructmine" in modules
    assert modules.isdisjoint(HEAVY)


def test_an_indicator_is_built_without_torch():
    program = "import hf_instructmine as him; him.MTLD(); him.Perplexity('some/model'); him.UniEval('some/model')"
    assert "torch" not in imported_by(program)


@pytest.mark.parametrize("name", hf_instructmine.__all__)
def test_every_public_name_is_there(name):
    assert getattr(hf_instructmine, name) is not None
    assert name in dir(hf_instructmine)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchThing'"):
        _ = hf_instructmine.NoSuchThing
