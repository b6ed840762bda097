"""Which releases of the libraries below this one were tested, and one line where another is installed."""

import logging
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version


# The oldest and the newest release that the whole suite passed with. `pyproject.toml` has the former and
# `constraints.txt` the latter, but for torch, whose newest builds take gigabytes; a test says where they differ.
TESTED = {
    "accelerate": ("1.10.1", "1.15.0"),
    "datasets": ("4.7.0", "5.2.0"),
    "flaml": ("2.4.0", "2.7.0"),
    "huggingface-hub": ("1.5.0", "2.4.0"),
    "peft": ("0.19.0", "0.21.2"),
    "pyarrow": ("21.0.0", "26.0.1"),
    "scikit-learn": ("1.7.0", "1.9.1"),
    "scipy": ("1.14.1", "1.17.1"),
    "sentence-transformers": ("5.5.0", "6.2.0"),
    "statsmodels": ("0.14.6", "0.15.0"),
    "torch": ("2.11.0", "2.14.1"),
    "transformers": ("5.7.0", "5.24.0"),
    "trl": ("1.7.0", "1.16.0"),
}

# Those that a loss depends on.
OF_TRAINING = ("hf-instructmine", "torch", "transformers", "trl", "peft", "accelerate", "datasets")

logger = logging.getLogger(__name__)


def check_versions(*names: str) -> None:
    """Says in one line for each library whose installed release was not tested: too old, or of a newer minor release.

    Called where a module that needs the libraries is imported. Each library is looked at once in a process.

    Args:
        names (`str`): Distribution names, keys of `TESTED`.
    """
    for name in names:
        _check(name)


@lru_cache
def _check(name: str) -> None:
    from packaging.version import Version

    oldest, newest = TESTED[name]
    try:
        installed = version(name)
    except PackageNotFoundError:  # its import will say so
        return
    # A patch release mends; it is a minor one that renames an argument.
    release = Version(installed).release[:2]
    if Version(installed) < Version(oldest):
        problem = "is older than any that was tested"
    elif release > Version(newest).release[:2]:
        problem = "is newer than any that was tested"
    else:
        return
    major, minor = Version(newest).release[:2]
    logger.warning(
        "%s %s %s with hf-instructmine (%s to %s): numbers may be wrong, calls may fail; "
        "pip install '%s>=%s,<%d.%d'", name, installed, problem, oldest, newest, name, oldest, major, minor + 1,
    )  # fmt: skip
