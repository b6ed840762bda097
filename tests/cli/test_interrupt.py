"""Ctrl-C stops every verb, with one line that says what is kept, whoever swallows the exception."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

from hf_instructmine.cli import main
from hf_instructmine.cli.interrupt import stoppable


pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")

# A verb whose work takes the interrupt as the argument says, and tells each tenth of a second that it goes on.
WORK = """
import signal, sys, time, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from hf_instructmine.cli import main, score

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)

class Slow:
    def __del__(self):
        print("begun", flush=True)
        work(2)

def in_a_del(args):
    Slow()
    work(30)

def in_a_bare_except(args):
    print("begun", flush=True)
    try:
        work(30)
    except:
        pass
    work(30)

def twice_in_a_bare_except(args):
    for _ in range(3):
        in_a_bare_except(args)

def as_another_error(args):
    print("begun", flush=True)
    try:
        work(30)
    except BaseException as error:
        raise RuntimeError("the library failed") from error

def in_a_slow_cleanup(args):
    print("begun", flush=True)
    try:
        work(30)
    finally:
        work(3)
        print("cleaned up", flush=True)

def in_an_endless_cleanup(args):
    print("begun", flush=True)
    try:
        work(30)
    finally:
        print("cleaning", flush=True)
        work(60)

main._LEFT["score"] = "it is kept"
score.run = globals()[sys.argv[1]]
sys.exit(main.main(["score", "pool.jsonl", "--indicator", "MTLD", "--output-dir", "out"]))
"""


def start(way: str, folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, way], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    return process


def test_whoever_swallows_the_interrupt_the_verb_stops_and_says_what_is_kept(tmp_path):
    ways = ("in_a_del", "in_a_bare_except", "twice_in_a_bare_except", "as_another_error", "in_a_slow_cleanup")
    started = {way: start(way, tmp_path) for way in ways}
    for way, process in started.items():
        said, told = process.communicate(timeout=20)
        assert process.returncode == 130, way
        assert told.splitlines()[-1] == "instructmine score: stopped; it is kept", way
        assert "Exception ignored" not in told, way
        assert ("cleaned up" in said) == (way == "in_a_slow_cleanup")  # which nothing breaks off


def test_a_second_interrupt_stops_at_once(tmp_path):
    process = start("in_an_endless_cleanup", tmp_path)
    assert process.stdout.readline() == "cleaning\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert time.monotonic() - began < 5
    assert process.stderr.read().splitlines()[-1] == "stopped at once"


@pytest.mark.parametrize("num_proc", ["1", "2"])
def test_a_score_that_is_stopped_goes_on_and_leaves_no_process(tmp_path, num_proc):
    rows = Dataset.from_dict(
        {"prompt": ["q"] * 3000, "completion": [f"{' '.join(map(str, range(400)))} {i}" for i in range(3000)]}
    )
    rows.to_parquet(tmp_path / "pool.parquet")
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{RUN}"]
    command += ["score", "pool.parquet", "--indicator", "MTLD", "--output-dir", "out", "--num-proc", num_proc]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 60
    while not (kept := sorted(tmp_path.glob("out/.columns/*/*.parquet"))) and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told = process.communicate(timeout=30)[1].splitlines()
    assert (process.returncode, told[-1]) == (
        130,
        "instructmine score: stopped; finished shards are kept: the same command goes on where it stopped",
    )
    assert "Traceback" not in "\n".join(told)
    assert not (tmp_path / "out/data").exists()
    before = {path: path.stat().st_mtime_ns for path in kept}
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out/indicators.json").exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert_nobody_is_left(process.pid)


def assert_nobody_is_left(group: int):
    """The process of a group that ends last, that which tracks what the others shared, may take a moment."""
    end = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(0.1)


def test_a_score_that_is_stopped_while_its_workers_begin_says_one_line(tmp_path):
    Dataset.from_dict(
        {"prompt": list(map(str, range(3000))), "completion": ["one two three " * 400] * 3000}
    ).to_parquet(tmp_path / "pool.parquet")
    command = [sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{RUN}"]
    command += ["score", "pool.parquet", "--indicator", "MTLD", "--output-dir", "out", "--num-proc", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("which processes a process has begun is not told here")
    end = time.monotonic() + 60
    while len(children.read_text().split()) < 2 and time.monotonic() < end:  # a tracker, and a worker that imports
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in told


RUN = "import sys; from hf_instructmine.cli.main import main\nif __name__ == '__main__': sys.exit(main(sys.argv[1:]))"


def test_the_workers_of_a_killed_score_end_too(tmp_path):
    script = (
        "import os, signal\nfrom datasets import Dataset\nfrom hf_instructmine import MTLD, score\n"
        "if __name__ == '__main__':\n"
        "    rows = {'prompt': list(map(str, range(9000))), 'completion': ['one two three ' * 400] * 9000}\n"
        "    score(Dataset.from_dict(rows), [MTLD()], 'out', num_proc=2)\n"
    )
    (tmp_path / "run.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob("out/.columns/*/*.parquet")) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert_nobody_is_left(process.pid)


def test_what_was_there_before_is_there_after():
    before = signal.getsignal(signal.SIGINT)
    with stoppable() as interrupt:
        assert not interrupt.seen
    assert signal.getsignal(signal.SIGINT) is before


def test_every_verb_says_what_it_leaves():
    told = {verb.__name__.rpartition(".")[2].replace("_", "-"): verb for verb in main.VERBS}
    assert set(main._LEFT) < set(told)
    # Which write at their end, whole or not at all.
    assert set(told) - set(main._LEFT) <= {"fit", "select", "report"}
