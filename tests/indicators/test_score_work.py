"""Several processes on one folder: each shard is scored once, those of one that died by the others."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from tiny_models import CHATML, byte_tokenizer, causal_model, save

from hf_instructmine import MTLD, InputLength, InstructMineError, OutputLength, Perplexity, score
from hf_instructmine.indicators import score_work, shard_sizes
from hf_instructmine.indicators.score_shards import Shards
from hf_instructmine.indicators.score_work import Task, local_shards, take_device


SHARD = 256
WORDS = ["the", "a", "dog", "cat", "met", "in", "street", "and", "looked", "at", "each", "other", "then", "went"]


def pool_of(rows: int) -> Dataset:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(rows)]
    return Dataset.from_dict({"prompt": [f"Question {i}?" for i in range(rows)], "completion": texts})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    tokenizer = byte_tokenizer(chat_template=CHATML)
    return save(tmp_path_factory.mktemp("models") / "tiny", causal_model("llama", tokenizer), tokenizer)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob(".columns/*/*.parquet")}


# --- The same command, started twice ------------------------------------------------------------------------------

RUN = """
import sys, time
from datasets import Dataset
from hf_instructmine import MTLD, Perplexity, score

class Logged:
    '''Writes down the first prompt of every shard before it is computed.'''
    def score(self, conversations, *prepared):
        with open(sys.argv[4], "a") as file:
            print("begun", conversations[0].prompt_text, file=file, flush=True)
        time.sleep(float(sys.argv[5]))
        return super().score(conversations, *prepared)

class Light(Logged, MTLD):
    pass

class Heavy(Logged, Perplexity):
    pass

if __name__ == "__main__":
    indicator = Heavy(sys.argv[2]) if sys.argv[2] else Light()
    scored = score(Dataset.from_parquet(sys.argv[1]), [indicator], sys.argv[3], num_proc=int(sys.argv[6]))
    print(scored[indicator.names[0]][:])
"""
# Seconds that a process may take to begin, on a machine with much else to do.
PATIENCE = 240


@pytest.fixture
def start(tmp_path):
    """Starts a process that scores the pool of 6 shards into a folder; `log` says what it computed."""
    pool_of(5 * SHARD + 20).to_parquet(tmp_path / "pool.parquet")
    (tmp_path / "run.py").write_text(RUN)

    def begin(folder: str, log: str, pause: float = 0.2, num_proc: int = 1, model: str = "") -> subprocess.Popen:
        given = [tmp_path / "pool.parquet", model, tmp_path / folder, tmp_path / log, pause, num_proc]
        command = [sys.executable, str(tmp_path / "run.py"), *map(str, given)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    return begin


def same(folder: Path, alone: Path, said: str) -> bool:
    """Whether shards and the scores that were returned are those of one process, to the last bit."""
    mine, theirs = ({Path(name).name: held for name, held in shard_bytes(f).items()} for f in (folder, alone))
    (name,) = json.loads((alone / "indicators.json").read_text())
    return mine == theirs and said == f"{load_dataset(str(alone), split='train')[name][:]}\n"


def computed(*logs: Path) -> list[str]:
    return [line for log in logs if log.exists() for line in log.read_text().splitlines()]


def test_two_processes_on_an_empty_folder_score_each_shard_once_and_return_the_same(start, tmp_path, model):
    both = [start("both", log, 0.3, model=model) for log in ("one", "two")]
    score(pool_of(5 * SHARD + 20), [Perplexity(model)], tmp_path / "alone")
    for process in both:
        assert same(tmp_path / "both", tmp_path / "alone", process.communicate(timeout=PATIENCE)[0])
    done = computed(tmp_path / "one", tmp_path / "two")
    assert len(done) == len({*done}) == 17


def test_the_shard_of_a_killed_process_is_taken_over_by_one_that_waits(start, tmp_path):
    killed, deadline = start("both", "killed", PATIENCE), time.monotonic() + PATIENCE
    while not computed(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.05)
    other = start("both", "other", 0)
    while len(computed(tmp_path / "other")) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert other.poll() is None  # it waits for the shard that is held
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    score(pool_of(5 * SHARD + 20), [MTLD()], tmp_path / "alone")
    assert same(tmp_path / "both", tmp_path / "alone", other.communicate(timeout=PATIENCE)[0])
    assert computed(tmp_path / "killed") == computed(tmp_path / "other")[-1:]


def test_helpers_give_the_same_bytes_and_divide_the_work(start, tmp_path):
    said = start("helped", "log", 0.3, num_proc=2).communicate(timeout=PATIENCE)[0]
    score(pool_of(5 * SHARD + 20), [MTLD()], tmp_path / "alone")
    assert same(tmp_path / "helped", tmp_path / "alone", said)
    done = computed(tmp_path / "log")
    assert len(done) == len({*done}) == 6


def test_the_second_to_arrive_writes_nothing_again(tmp_path):
    def written() -> dict[Path, int]:
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {path: path.stat().st_mtime_ns for path in files}

    first = score(pool_of(300), [MTLD(), InputLength(byte_tokenizer())], tmp_path)
    before = written()
    again = score(pool_of(300), [InputLength(byte_tokenizer()), MTLD()], tmp_path)
    assert written() == before
    assert again["mtld"][:] == first["mtld"][:]
    (tmp_path / "report.json").write_text("{}")
    score(pool_of(300), [InputLength(byte_tokenizer()), MTLD()], tmp_path, overwrite=True)
    assert json.loads((tmp_path / "report.json").read_text()).keys() == {"mtld", "input_length"}


def test_a_folder_that_another_process_has_just_claimed_is_no_foreign_one(tmp_path, monkeypatch):
    from hf_instructmine.outputs.records import Records

    check = Records.check_unclaimed

    def late(self, *given, **more):
        if not (tmp_path / "indicators.json").exists():
            with monkeypatch.context() as undone:
                undone.setattr(Records, "check_unclaimed", check)
                score(pool_of(5), [MTLD()], tmp_path)
            raise InstructMineError("it holds other files")  # what a look in between would find

    monkeypatch.setattr(Records, "check_unclaimed", late)
    assert len(score(pool_of(5), [MTLD()], tmp_path)) == 5


# --- num_proc -----------------------------------------------------------------------------------------------------

LOGGED = """
import os, sys, time
from pathlib import Path
import numpy as np
from hf_instructmine import MTLD

class First(MTLD):
    cheap = False
    def score(self, conversations):
        with open(Path(__file__).with_name("log"), "a") as file:
            print(os.getpid(), self.names[0], file=file, flush=True)
        deadline = time.monotonic() + 240  # until both have come
        while len({line.split()[0] for line in open(file.name)}) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        return super().score(conversations)

class Second(First):
    names = ("second",)

class Wide(MTLD):
    names = tuple(f"c{k}" for k in range(40))
    def score(self, conversations):
        n = len(conversations)
        return np.random.default_rng(n).random((n, 40)), np.ones(n), [None] * n
"""


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """The indicators above, as another process finds them too."""
    (tmp_path / "logged.py").write_text(LOGGED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "logged", raising=False)
    return importlib.import_module("logged")


def test_one_set_of_processes_serves_all_indicators_of_a_call(logged, tmp_path, monkeypatch):
    pool = pool_of(10 * SHARD)  # in memory, and so large that it is sent as a file
    monkeypatch.setattr(score_work, "_SENT", 1000)
    scored = score(pool, [logged.First(), logged.Second()], num_proc=2)
    assert scored["mtld"][:] == scored["second"][:] == score(pool, [MTLD()])["mtld"][:]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert len(lines) == 20
    assert len({pid for pid, _ in lines}) == 2 and str(os.getpid()) in {pid for pid, _ in lines}


WORKERS = """
import os, signal, time
from multiprocessing import parent_process
from pathlib import Path
from hf_instructmine import InstructMineError, MTLD

HERE = Path(__file__).parent

class Waiting(MTLD):
    # The calling process waits for what the others come to.
    others = 1
    def score(self, conversations):
        if parent_process() is not None:
            (HERE / f"{os.getpid()}.ended").touch()
            self.end()
        deadline = time.monotonic() + 240
        while len(list(HERE.glob("*.ended"))) < self.others and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        return super().score(conversations)

class Failing(Waiting):
    def end(self):
        raise InstructMineError("the model does not load")

class Dying(Waiting):
    others = 2
    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def workers(tmp_path, monkeypatch):
    (tmp_path / "workers.py").write_text(WORKERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "workers", raising=False)
    return importlib.import_module("workers")


def test_an_error_in_another_process_is_one_line_too(workers):
    with pytest.raises(InstructMineError, match=r"^the model does not load$"):
        score(pool_of(20 * SHARD), [workers.Failing()], num_proc=2)


def test_a_process_that_dies_is_told_in_one_line_and_the_others_do_its_shard(workers, caplog):
    pool = pool_of(12 * SHARD)
    scored = score(pool, [workers.Dying()], num_proc=3)
    assert scored["mtld"][:] == score(pool, [MTLD()])["mtld"][:]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2 and "\n" not in told[0]
    assert all(
        line.startswith("a process of num_proc died (exit code -9), for want of memory perhaps") for line in told
    )


@pytest.mark.parametrize(
    "environment, place, device", [({}, 5, 1), ({"LOCAL_RANK": "3"}, None, 3), ({"SLURM_LOCALID": "6"}, None, 2)]
)
def test_a_process_takes_the_gpu_of_its_place(monkeypatch, environment, place, device):
    import torch

    taken: list[int] = []
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(torch.accelerator, "set_device_index", taken.append)
    take_device([MTLD()], place)
    assert taken == []  # there is no model to be on it
    take_device([MTLD(), Perplexity("some/model")], place)
    assert taken == [device]


# --- Shards -------------------------------------------------------------------------------------------------------


def test_a_shard_that_is_held_is_waited_for_and_then_taken(tmp_path):
    shards = Shards(tmp_path, ("mtld",), [])
    texts = pool_of(300)
    task = Task(texts, [MTLD()], [shards], 100, {})
    missing = {start: [0] for start in task.sizes}
    made: list[int] = []
    with shards.claim(100) as held:
        assert held
        working = threading.Thread(target=lambda: made.extend(start for start, _ in local_shards(task, missing)))
        working.start()
        deadline = time.monotonic() + 20
        while len(made) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        working.join(0.6)
        assert working.is_alive() and sorted(made) == [0, 200]
    working.join(20)
    assert made[-1] == 100 and len(made) == 3


def test_whoever_joins_follows_the_rows_of_a_shard_that_were_decided_first(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(shard_sizes, "CPU_ROWS", 100)
        first = score(pool_of(250), [MTLD()], tmp_path)
    (folder,) = tmp_path.glob(".columns/mtld-*")
    (folder / "000000100.parquet").unlink()
    assert score(pool_of(250), [MTLD()], tmp_path)["mtld"][:] == first["mtld"][:]
    assert sorted(path.name for path in folder.glob("*.parquet")) == [f"000000{k}00.parquet" for k in range(3)]


def test_another_release_goes_on_with_no_shards_but_reads_a_finished_column(tmp_path, monkeypatch):
    lengths = OutputLength(byte_tokenizer())
    first = score(pool_of(300), [lengths], tmp_path)
    (layout,) = tmp_path.glob(".columns/output_length-*/layout.json")
    written = json.loads(layout.read_text())
    written["versions"]["tokenizers"] = "0.1.5"
    layout.write_text(json.dumps(written))
    assert score(pool_of(300), [lengths], tmp_path)["output_length"][:] == first["output_length"][:]
    layout.with_name("000000256.parquet").unlink()
    monkeypatch.setattr(OutputLength, "score", None)
    message = (
        r"holds shards made with tokenizers 0\.1\.5, and here is tokenizers .*: go on with the same versions, or "
    )
    with pytest.raises(InstructMineError, match=message) as error:
        score(pool_of(300), [lengths], tmp_path)
    assert "\n" not in str(error.value)


def test_shards_of_an_earlier_version_are_gone_on_with(tmp_path, monkeypatch):
    pool = pool_of(300)
    pool = Dataset.from_dict({name: [*pool[name][:], *pool[name][:10]] for name in pool.column_names})
    expected = MTLD()(pool[:])["mtld"]
    kept = Shards(tmp_path / ".columns", ("mtld",), [None, MTLD().provenance()])
    (tables,) = (
        Task(pool, [MTLD()], None, 256, {}).finish([0], Task(pool, [MTLD()], None, 256, {}).begin(0, [0])).values()
    )
    kept.write(0, tables)
    before = shard_bytes(tmp_path)
    from hf_instructmine.data.texts import pool_digest

    (tmp_path / ".columns/pool.json").write_text(json.dumps({"rows": 310, "digest": pool_digest(pool)}))
    measured: list[int] = []
    measure = MTLD.score
    monkeypatch.setattr(MTLD, "score", lambda self, rows: measured.append(len(rows)) or measure(self, rows))
    assert score(pool, [MTLD()], tmp_path)["mtld"][:] == expected
    assert measured == [310 - 256]  # identical rows one by one, as that version did
    assert before.items() <= shard_bytes(tmp_path).items() and not list(kept.folder.glob("layout.json"))


# --- Identical rows -----------------------------------------------------------------------------------------------


def test_identical_rows_are_scored_once(tmp_path, monkeypatch, caplog):
    rows = {
        "prompt": ["a", "b", "a", "a", "c", "b"],
        "completion": ["one two", "x y z", "one two", "one", "42", "x y z"],
    }
    pool = Dataset.from_dict({**rows, "id": list(range(6))})
    measured: list[int] = []
    measure = MTLD.score
    monkeypatch.setattr(MTLD, "score", lambda self, rows: measured.append(len(rows)) or measure(self, rows))
    for folder in (None, tmp_path):
        scored = score(pool, [MTLD()], folder)
        np.testing.assert_array_equal(scored["mtld"][:], [2, 3, 2, 1, np.nan, 3])
        assert scored["id"][:] == pool["id"][:]
    assert measured == [4, 4]
    assert load_dataset(str(tmp_path), split="train")["mtld"][:5:2] == [2, 2, pytest.approx(np.nan, nan_ok=True)]


def test_what_is_identical_is_told_by_what_the_indicator_reads():
    pool = Dataset.from_dict({"q": ["a", "a"], "best": ["one two", "one two"], "worst": ["one", "one two three"]})
    for column, expected in (("best", [2, 2]), ("worst", [1, 3])):
        assert score(pool, [MTLD(columns={"prompt": "q", "response": column})])["mtld"][:] == expected


# --- What goes wrong ----------------------------------------------------------------------------------------------


def test_a_pool_that_changes_while_it_is_scored_is_one_line(tmp_path, monkeypatch):
    pool_of(300).save_to_disk(str(tmp_path / "pool"))
    pool = Dataset.load_from_disk(str(tmp_path / "pool"))
    measure = MTLD.score

    def touched(self, rows):
        os.utime(pool.cache_files[0]["filename"], (1, 1))
        return measure(self, rows)

    monkeypatch.setattr(MTLD, "score", touched)
    with pytest.raises(InstructMineError, match="holds rows of the pool, and changed while they were scored") as error:
        score(pool, [MTLD()], tmp_path / "scored")
    assert "\n" not in str(error.value)
    assert shard_bytes(tmp_path / "scored") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of a file stands for a full disk")
@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_disk_that_is_full_while_shards_are_written_is_one_line_and_what_is_there_is_kept(
    logged, tmp_path, num_proc
):
    import resource

    pool = pool_of(8 * SHARD)
    score(pool, [MTLD()], tmp_path / "scored")
    kept = shard_bytes(tmp_path / "scored")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # a shard of forty columns has 80,000 bytes
    try:
        with pytest.raises(InstructMineError, match=r"^cannot write '.*': .*what is finished is kept") as error:
            score(pool, [logged.Wide()], tmp_path / "scored", num_proc=num_proc)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value) and shard_bytes(tmp_path / "scored") == kept
    assert len(score(pool, [logged.Wide()], tmp_path / "scored")) == len(pool)


@pytest.mark.parametrize("failing", [False, True])
def test_a_shard_that_is_claimed_ahead_of_the_model_is_given_back_on_an_error(tmp_path, model, monkeypatch, failing):
    pool = pool_of(8 * SHARD)
    expected = score(pool, [Perplexity(model)])["perplexity"][:]
    monkeypatch.setattr(score_work, "_overlaps", lambda task: True)
    if not failing:
        assert score(pool, [Perplexity(model)], tmp_path)["perplexity"][:] == expected
        return
    with monkeypatch.context() as broken:
        broken.setattr(Perplexity, "_gather", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError) as error:  # whose traceback keeps everything alive
            score(pool, [Perplexity(model)], tmp_path)
    assert score(pool, [Perplexity(model)], tmp_path)["perplexity"][:] == expected
    assert error.tb is not None
