"""A record is written whole or not at all, checked when it is read, and a run belongs to one process at a time."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.records import Records, differences
from hf_instructmine.sweep.manifest import describe_difference, environment


MANIFEST = {
    "pool": "24 rows, xxh64:1",
    "columns": None,
    "recipe": {"model_name_or_path": "tiny", "learning_rate": 1e-4, "seed": 0},
    "base_model": {"model": "tiny", "weights": "xxh64:2"},
    "evaluation_sets": {"single": "6 examples, 3"},
}


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path / "sweep")


def claim(records: Records, manifest: dict) -> None:
    records.claim("sweep.json", manifest, "sweep", describe_difference, beside=("design.json",))


def test_what_is_written_is_read_again(records):
    content = {"losses": {"a": 1.25, "b": 1e-17}, "nothing": None, "not a number": float("inf"), "text": "日本\ud800"}
    records.write(records.path_of("run"), content)
    assert records.read(records.path_of("run")) == content
    assert records.all() == {"run": content}
    assert records.read(records.path_of("other")) is None


def test_any_flipped_or_missing_byte_is_noticed_and_reported_once(records, caplog):
    path = records.path_of("run")
    records.write(path, {"losses": {"single": 1.5}, "steps": 3})
    sound = path.read_bytes()
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert Records(records.folder).read(path) is None
        path.write_bytes(sound[:position])
        assert Records(records.folder).read(path) is None
    for other in (b"[1]", b"7", b"null", b"\xff\xfe", b'{"checksum": "0"}'):
        path.write_bytes(other)
        assert records.read(path) is None
    assert records.all() == {}
    reader = Records(records.folder)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        reader.read(path), reader.read(path)
    assert [r.getMessage() for r in caplog.records] == [f"'{path}' is damaged: it counts as missing"]


def test_a_folder_belongs_to_one_sweep(records):
    claim(records, MANIFEST)
    claim(records, MANIFEST)
    changes = {
        "recipe": {**MANIFEST["recipe"], "learning_rate": 2e-4},
        "pool": "25 rows, xxh64:9",
        "base_model": {"model": "tiny", "weights": "xxh64:9"},
        "evaluation_sets": {"single": "6 examples, 3", "more": "1 examples, 4"},
        "columns": {"prompt": "question"},
    }
    told = {
        "recipe": "another sweep (recipe (learning_rate: 0.0001 → 0.0002)",
        "pool": "another sweep (pool (24 rows, xxh64:1 → 25 rows, xxh64:9)",
        "base_model": "another sweep (base model (weights: xxh64:2 → xxh64:9)",
        "evaluation_sets": "another sweep (evaluation sets (more: None → 1 examples, 4)",
        "columns": "another sweep (columns (None → {'prompt': 'question'})",
    }
    for key, value in changes.items():
        with pytest.raises(InstructMineError) as error:
            claim(records, {**MANIFEST, key: value})
        assert told[key] in str(error.value)
    # A seed belongs to a run: another one in the recipe is the same sweep.
    claim(records, {**MANIFEST, "recipe": {**MANIFEST["recipe"], "seed": 7}})
    both = describe_difference(MANIFEST, {**MANIFEST, "recipe": changes["recipe"], "pool": changes["pool"]})
    assert both == ["recipe (learning_rate: 0.0001 → 0.0002)", "pool (24 rows, xxh64:1 → 25 rows, xxh64:9)"]


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(records):
    records.folder.mkdir()
    (records.folder / "thesis.tex").write_text("precious")
    with pytest.raises(InstructMineError, match=r"holds other files \('thesis.tex', …\): choose an empty output_dir"):
        claim(records, MANIFEST)
    assert [path.name for path in records.folder.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InstructMineError, match="taken' is a file: choose another output_dir"):
        Records(tmp_path / "taken").claim("sweep.json", {}, "sweep")


def test_what_a_kill_leaves_of_the_first_instant_is_no_other_file(records):
    with records.lock("run"):
        (records.folder / ".sweep.json.4711").write_text('{"checks')
    claim(records, MANIFEST)
    assert records.read(records.folder / "sweep.json") == MANIFEST


def test_a_damaged_manifest_is_not_replaced_by_a_guess(records):
    claim(records, MANIFEST)
    (records.folder / "sweep.json").write_text("{")
    with pytest.raises(InstructMineError, match=r"sweep.json' is damaged"):
        claim(records, MANIFEST)


def _hold(folder: Path, held, forever) -> None:
    with Records(folder).lock("run") as mine:
        assert mine
        held.set()
        forever.wait()


def test_a_run_belongs_to_one_process_until_that_ends_or_is_killed(records):
    context = multiprocessing.get_context("fork")
    held, forever = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(records.folder, held, forever))
    assert not records.is_running("run")
    process.start()
    held.wait(30)
    assert records.is_running("run")
    with records.lock("run", patience=0) as mine, records.lock("other run", patience=0) as other:
        assert not mine and other
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not records.is_running("run")
    with records.lock("run") as mine:
        assert mine


def test_a_write_that_is_killed_half_way_leaves_the_record_before_it(records):
    path = records.path_of("run")
    records.write(path, {"written": "before"})
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom hf_instructmine.outputs.records import Records\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # between writing and renaming\n"
        f"Records({str(records.folder)!r}).write(Path({str(path)!r}), {{'written': 'half'}})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    assert records.all() == {"run": {"written": "before"}}


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_there(records):
    import resource

    path = records.path_of("run")
    records.write(path, {"written": "before"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        with pytest.raises(InstructMineError) as error:
            records.write(path, {"written": "much" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(error.value) == (
        f"cannot write '{path}': File too large; what is finished is kept: mend it and start again"
    )
    assert records.all() == {"run": {"written": "before"}}
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_the_environment_names_versions_and_the_commit():
    found = environment()
    assert {"python", "platform", "torch", "trl", "hf-instructmine", "commit"} <= found.keys()
    assert all(isinstance(value, str) for name, value in found.items() if name != "commit")


def test_names_of_numbers_are_read_again(records):
    # JSON makes text of them, in another order: 10 stands before 9.
    records.write(records.path_of("run"), {"losses": {9: 1.5, 10: 1.25}})
    assert records.read(records.path_of("run")) == {"losses": {"9": 1.5, "10": 1.25}}


def test_what_differs_is_named_whichever_request_has_it():
    before, now = {"seed": 1, "same": (1, 2), "old": 3, "none": None}, {"seed": 2, "same": [1, 2], "new": 4}
    assert differences(json.loads(json.dumps(before)), now) == ["seed: 1 → 2", "new: None → 4", "old: 3 → None"]
