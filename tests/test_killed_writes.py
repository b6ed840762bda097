"""What a kill leaves of a folder is accepted where it is whole, and gone on with: a few kills; hundreds by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_killed_at_random_instants_everything_ends_as_if_nothing_had_happened(tmp_path):
    tests = Path(__file__).parent
    command = [sys.executable, str(tests / "killed_writes.py"), str(tmp_path), "4", "score", "select", "fit"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name: count["kills"] for found in counts for name, count in found.items()} == {
        "score": 4,
        "select": 4,
        "fit": 4,
    }
