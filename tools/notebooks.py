"""Executes the notebooks, and looks at what is stored in them.

    python tools/notebooks.py [--write] [NOTEBOOK …]

Without options each is executed in its quick form and nothing is written: it fails where a cell raises, where what a
cell puts out has a path or the user's name of this machine, a warning or a traceback, or where what is stored in the
file has. `--write` executes the full form and stores what comes out.
"""

import argparse
import getpass
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any


FOLDER = Path(__file__).parents[1] / "notebooks"
QUICK = "INSTRUCTMINE_QUICK"  # which the notebooks read
# Of the kernel: no bars, whose every step would be stored; no Hub.
SETTINGS = {
    "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # of tqdm, where there are no widgets
}  # fmt: skip
# What no output may hold: paths of a machine, what went wrong, and commands to a terminal.
NAMELESS = {"root", "runner", "user"}  # words of English too; where they are a name, there is a path beside them
FAULTS = {
    "a path of a machine": r"(?<![\w.:/])/(?:home|root|tmp|Users|work|opt|usr|var|mnt|private)/|[A-Za-z]:\\\\?Users",
    "a warning": r"\b\w+Warning\b|\bwarnings?\.warn\b",
    "a traceback": r"Traceback \(most recent call last\)",
    "a command to a terminal": "\x1b",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="default: all of notebooks/")
    parser.add_argument("--write", action="store_true", help="execute the full form, and store what comes out")
    args = parser.parse_args()
    failed = False
    for path in args.notebooks or sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text("utf-8"))
        found = [] if args.write else [f"stored: {fault}" for fault in [*empty(notebook), *faults(notebook)]]
        started = time.perf_counter()
        try:
            executed = execute(notebook, quick=not args.write)
        except Exception as error:  # of a cell, which says what it was
            found.append(f"it raises: {error}")
        else:
            found += [f"executed: {fault}" for fault in faults(executed)]
            if args.write and not found:
                path.write_text(dumps(executed), "utf-8")
        print(f"{path.name}: {time.perf_counter() - started:.0f} s, {'; '.join(found) or 'nothing found'}", flush=True)
        failed = failed or bool(found)
    return int(failed)


def execute(notebook: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The notebook as it is once all cells have run, in a kernel of this Python."""
    import nbformat
    from nbclient import NotebookClient

    os.environ |= SETTINGS
    os.environ.pop(QUICK, None)
    if quick:
        os.environ[QUICK] = "1"
    made = nbformat.from_dict(clean(notebook))
    client = NotebookClient(
        made, timeout=3600, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    return clean(made, outputs=True)


def clean(notebook: dict[str, Any], outputs: bool = False) -> dict[str, Any]:
    """The notebook without times, counts and settings of who ran it; with what its cells put out, or without."""
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        kept = {"cell_type": cell["cell_type"], "id": f"cell-{number:02d}", "metadata": {}}
        kept["source"] = _joined(cell["source"])
        if cell["cell_type"] == "code":
            kept |= {"execution_count": None, "outputs": [_plain(o) for o in cell["outputs"]] if outputs else []}
        cells.append(kept)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _plain(output: dict[str, Any]) -> dict[str, Any]:
    kept = dict(output)
    if "execution_count" in kept:
        kept["execution_count"] = None
    if "metadata" in kept:
        kept["metadata"] = {}
    return kept


def faults(notebook: dict[str, Any], user: str | None = None) -> list[str]:
    """What of a notebook's outputs is of this machine, or went wrong: which cell, and what.

    Args:
        notebook (`dict`): As JSON has it.
        user (`str`, *optional*): Whose name no output may hold; by default who runs this.
    """
    user = user or getpass.getuser()
    patterns = FAULTS | ({} if user in NAMELESS else {"the name of a user": rf"\b{re.escape(user)}\b"})
    found = []
    for number, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", ()):
            if output["output_type"] == "error":
                found.append(f"cell {number}: an error, {output.get('ename')}")
            lines = [line for text in _texts(output) for line in text.splitlines()]
            for what, pattern in patterns.items():
                there = [line for line in lines if re.search(pattern, line)]
                found += [f"cell {number}: {what}: {there[0].strip()[:120]!r}"] if there else []
    return found


def empty(notebook: dict[str, Any]) -> list[str]:
    """Whether a notebook has no output, so that a reader would see nothing."""
    stored = any(cell.get("outputs") for cell in notebook["cells"])
    return [] if stored else ["nothing is stored: execute it with --write"]


def _texts(output: dict[str, Any]) -> list[str]:
    """What an output says; pictures, which are numbers, are left out."""
    parts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if not k.startswith("image/"))]
    texts = [_joined(part) if isinstance(part, str | list) else json.dumps(part) for part in parts]
    return [re.sub(r"data:image/png;base64,[\w+/=]+", "", text) for text in texts]


def dumps(notebook: dict[str, Any]) -> str:
    """As it is stored: lines that a comparison of versions can show."""
    lined = json.loads(json.dumps(notebook))
    for cell in lined["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(lined, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main())
