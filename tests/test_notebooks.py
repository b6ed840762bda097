"""What is stored in the notebooks is of no machine and went right; what would not be is found."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import hf_instructmine as him


ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools/notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def notebook(*outputs):
    return {
        "cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": ["1\n", "2"], "outputs": list(outputs)}]
    }


def said(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data):
    return {"output_type": "execute_result", "execution_count": 7, "metadata": {"took": 1}, "data": data}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_stored_is_of_a_machine_or_went_wrong(tool, path):
    stored = json.loads(path.read_text("utf-8"))
    assert tool.faults(stored) == []
    assert tool.dumps(tool.clean(stored, outputs=True)) == path.read_text("utf-8")  # no times, counts, settings


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_names_public_names_alone(path):
    sources = "".join("".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"])
    assert set(re.findall(r"\bhim\.(\w+)", sources)) <= set(him.__all__)
    assert not re.search(r"\bfrom hf_instructmine|\bimport hf_instructmine\.", sources)


@pytest.mark.parametrize(
    "output, what",
    [
        (said("see /home/ann/pool.jsonl"), "a path of a machine"),
        (shown(**{"text/plain": ["x\n", "C:\\\\Users\\ann"]}), "a path of a machine"),
        (shown(**{"text/html": "<b>/tmp/x</b>"}), "a path of a machine"),
        (said("x.py:3: UserWarning: no\n", "stderr"), "a warning"),
        (said("Traceback (most recent call last):\n"), "a traceback"),
        (said("\x1b[31mred"), "a command to a terminal"),
        (said("by ann, at 12"), "the name of a user"),
        ({"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}, "an error, ValueError"),
    ],
)
def test_what_must_not_be_stored_is_found(tool, output, what):
    assert any(what in fault for fault in tool.faults(notebook(said("fine"), output), user="ann"))


def test_what_may_be_stored_is_not(tool):
    fine = [said("output/full and https://host/tmp/x, a share of 1/2, annotated"), shown(**{"image/png": "ann/tmp/"}),
            shown(**{"text/html": '<img src="data:image/png;base64,aa/tmp/ann==">'})]  # fmt: skip
    assert tool.faults(notebook(*fine), user="ann") == []


def test_a_notebook_without_outputs_is_found(tool):
    assert tool.empty(notebook()) == ["nothing is stored: execute it with --write"]
    assert tool.empty(notebook(said("fine"))) == []


def test_times_and_counts_are_not_kept(tool):
    kept = tool.clean(notebook(shown(**{"text/plain": "1"})), outputs=True)["cells"][0]
    assert kept["source"] == "1\n2" and kept["execution_count"] is None
    assert kept["outputs"] == [shown(**{"text/plain": "1"}) | {"execution_count": None, "metadata": {}}]
    assert tool.clean(notebook(said("x")))["cells"][0]["outputs"] == []
