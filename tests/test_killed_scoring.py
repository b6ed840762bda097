"""Scoring that is killed goes on where it stopped, and ends with the same bytes: a few kills; hundreds by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


TESTS = Path(__file__).parent


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
@pytest.mark.parametrize(("mode", "kills"), [("local", 3), ("two", 3), ("ray", 1)])
def test_killed_at_random_instants_every_score_is_that_of_an_uninterrupted_run(mode, kills, tmp_path):
    if mode == "ray":
        pytest.importorskip("ray", reason="pip install 'hf-instructmine[ray]'")
    command = [sys.executable, str(TESTS / "killed_scoring.py"), str(tmp_path), str(kills), mode]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, summary = [json.loads(line) for line in done.stdout.splitlines() if line[0:1] == "{"]
    assert len(lines) == summary["kills"] == kills
    assert summary["equal"] == summary["folders"] > 0
