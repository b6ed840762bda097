"""Every function that takes rows takes them in whatever holds them, and gives the same for the same rows."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import read_turns
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.training_data import read_training_data
from hf_instructmine.sweep.session import SweepSession


NUMBER = 12
QUESTION = "How many rivers of the world are longer than {} kilometres, and which is the longest of them all?"
RULE = him.LossEstimator.from_coefficients({"quality": 1.0, "log(output_length)": 0.1})
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}]


def rows() -> list[dict]:
    """Rows of every kind of value: texts, a message list, a missing text, whole numbers, and a gap among numbers."""
    return [
        {
            "prompt": QUESTION.format(i),
            "completion": None if i == 3 else f"About {i}, I think.\n" * (1 + i % 3),
            "source": ["web", "human"][i % 2],
            "output_length": 3 + i,
            "quality": None if i == 5 else (i * 7 % 12) / 4,
        }
        for i in range(NUMBER)
    ]


def chats() -> list[dict]:
    """Conversations, one of them with a name that the others lack."""
    answer = {"role": "assistant", "content": "Hello!"}
    return [{"messages": [*CHAT, answer]}, {"messages": [{"role": "user", "content": "?", "name": "Ann"}, answer]}]


def as_polars(table: Dataset, folder: Path):
    return pytest.importorskip("polars").DataFrame(table.to_list())


def as_file(suffix: str, write: str):
    def make(table: Dataset, folder: Path) -> str:
        getattr(table, write)(folder / f"rows{suffix}")
        return str(folder / f"rows{suffix}")

    return make


def saved(table: Dataset, folder: Path) -> Path:
    DatasetDict(test=table).save_to_disk(folder / "saved")
    return folder / "saved"


def filtered(table: Dataset, folder: Path) -> pd.DataFrame:
    """A frame whose rows a filter has left, with their labels."""
    return pd.concat([table.to_pandas(), table.to_pandas()]).iloc[len(table) :]


CONTAINERS = {
    "numpy format": lambda table, folder: table.with_format("numpy"),
    "pandas format": lambda table, folder: table.with_format("pandas"),
    "torch format": lambda table, folder: table.with_format("torch"),
    "arrow format": lambda table, folder: table.with_format("arrow"),
    "some columns shown": lambda table, folder: table.with_format(None, columns=table.column_names[:1]),
    "one split": lambda table, folder: DatasetDict(test=table),
    "a dict of one split": lambda table, folder: {"test": table},
    "stream": lambda table, folder: table.to_iterable_dataset(num_shards=2),
    "stream of no known type": lambda table, folder: IterableDataset.from_generator(table.to_list),
    "stream with a format": lambda table, folder: table.to_iterable_dataset().with_format("numpy"),
    "one split of streams": lambda table, folder: IterableDatasetDict(test=table.to_iterable_dataset()),
    "DataFrame": lambda table, folder: table.to_pandas(),
    "filtered DataFrame": filtered,
    "polars": as_polars,
    "Arrow table": lambda table, folder: pa.Table.from_pylist(table.to_list()),
    "list": lambda table, folder: table.to_list(),
    "dict of columns": lambda table, folder: table.to_dict(),
    "JSON lines": as_file(".jsonl", "to_json"),
    "Parquet": as_file(".parquet", "to_parquet"),
    "list of files": lambda table, folder: [as_file(".parquet", "to_parquet")(table, folder)],
    "saved": saved,
}


class Reached(Exception):
    """The finetunes are reached, with this pool and these evaluation sets."""


class Encoder:
    """A sentence encoder by the bytes of a text."""

    is_loaded = True

    def encode(self, texts):
        vectors = np.array([np.bincount(list(text.encode()), minlength=256) + 1.0 for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.zeros(len(texts), bool)

    def dimensions(self):
        return 256

    def describe(self):
        return {"model": "bytes"}

    def release(self):
        pass


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No finetune is run, and nothing is found in an earlier cache."""

    def reached(session, mixtures, begun=None):
        sets = {name: [turn.response for turn in examples.turns] for name, examples in session.eval_sets.items()}
        raise Reached(session.pool.to_list(), mixtures["indices"][:], sets)

    monkeypatch.setattr(SweepSession, "run", reached)
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path / "cache"))


def knn() -> him.NeighborDistance:
    indicator = him.NeighborDistance("bytes", i=2)
    indicator.encoder = Encoder()
    return indicator


def plain(found):
    """Something that compares: NaN is equal to NaN, and an array to its list."""
    if isinstance(found, Dataset):
        return plain(found.to_dict())
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple | np.ndarray):
        return [plain(value) for value in found]
    if isinstance(found, float | np.floating):
        return None if math.isnan(found) else float(found)
    return found.item() if isinstance(found, np.generic) else found


def reach(function, *args, **kwargs):
    with pytest.raises(Reached) as reached:
        function(*args, **kwargs)
    return reached.value.args


RECIPE = {"model_name_or_path": "some/model", "use_cpu": True, "bf16": False, "report_to": "none"}
EVAL = {"mine": Dataset.from_list(rows()[:2])}
MANY = {"mine": Dataset.from_list(rows()[:2] * 10)}  # as a verdict needs
OTHER = Dataset.from_list([*rows()[:2], {**rows()[2], "prompt": "Name a lake."}])
MIXTURES = Dataset.from_dict({"mixture_id": ["a", "b"], "seed": [0, 1], "indices": [[0, 1], [2, 4]]})
ENTRANCES = {
    "score": lambda d, f: him.score(d, [him.MTLD()]),
    "score in a folder": lambda d, f: (him.score(d, him.MTLD(), f / "scored"), (f / "scored/report.json").read_text()),
    "fit neighbours": lambda d, f: knn().fit(d).provenance(),
    "embed": lambda d, f: knn().embed(d),
    "to_prompt_completion": lambda d, f: him.to_prompt_completion(d),
    "read_training_data": lambda d, f: [row.completion for row in read_training_data(d)],
    "find_contaminated": lambda d, f: str(him.find_contaminated(d, EVAL)),
    "find_contaminated by": lambda d, f: str(him.find_contaminated(EVAL["mine"], {"rows": d})),
    "an evaluation set": lambda d, f: [turn.response for turn in EvaluationSet.read("mine", d).turns],
    "load_eval_sets": lambda d, f: him.load_eval_sets({"mine": d})["mine"].rows,
    "select": lambda d, f: him.Selector(RULE).select(d, size=4).dataset,
    "select without": lambda d, f: him.Selector(RULE, eval_sets={"mine": d}).select(OTHER, size=1).contaminated,
    "design_mixtures": lambda d, f: him.design_mixtures(d, 3, subset_size=4, seed=1),
    "design_report": lambda d, f: str(
        him.design_report(him.design_mixtures(Dataset.from_list(rows()), 3, subset_size=4, seed=1), d)
    ),
    "run_sweep": lambda d, f: reach(him.run_sweep, d, MIXTURES, RECIPE, EVAL, f / "sweep"),
    "run_sweep on": lambda d, f: reach(him.run_sweep, EVAL["mine"], MIXTURES, RECIPE, {"mine": d}, f / "sweep"),
    "search_size": lambda d, f: reach(him.search_size, d, RULE, RECIPE, EVAL, f / "search", min_size=2, max_size=7),
    "compare_strategies": lambda d, f: reach(
        him.compare_strategies, d, {"mine": RULE}, RECIPE, MANY, f / "comparison", sizes=[1], parts=3
    ),
    "usual_strategies": lambda d, f: him.usual_strategies(d),
    "predict": lambda d, f: RULE.predict(d),
    "predict_subset": lambda d, f: str(RULE.predict_subset(d, [1, 2])),
    "contributions": lambda d, f: RULE.contributions(d),
}


@pytest.fixture(scope="module")
def expected() -> dict:
    return {}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_entrance_gives_the_same_for_the_same_rows(container, entrance, expected, tmp_path):
    table, enter = Dataset.from_list(rows()), ENTRANCES[entrance]
    if entrance not in expected:
        (tmp_path / "plain").mkdir()
        expected[entrance] = plain(enter(table, tmp_path / "plain"))
    (tmp_path / "held").mkdir()
    held = CONTAINERS[container](table, tmp_path)
    assert plain(enter(held, tmp_path / "held")) == expected[entrance]


@pytest.mark.parametrize("container", CONTAINERS)
def test_conversations_are_the_same_in_every_container(container, tmp_path):
    table = Dataset.from_list(chats())
    held = CONTAINERS[container](table, tmp_path)
    assert [row["prompt"][-1]["content"] for row in him.to_prompt_completion(held)] == ["Hello.", "?"]
    assert plain(him.score(held, him.MTLD())["mtld"][:]) == plain(him.MTLD()(table[:])["mtld"])


# --- Tables of runs, mixtures and trials --------------------------------------------------------------------------


def runs() -> Dataset:
    rng = np.random.default_rng(0)
    quality = rng.normal(size=16)
    losses = np.exp(0.1 * quality + rng.normal(size=16) / 100)
    return Dataset.from_dict({"quality": quality.round(6), "loss_x": losses.round(6)})  # JSON has ten digits


TRIALS = Dataset.from_list(
    [
        {"kind": "grid", "strategy": strategy, "size": size, "status": "done", "loss_x": 1 + k / size + seed / 64}
        for strategy, k in (("selected", 1.0), ("random", 2.0))
        for size in (4, 8, 16, 32, 64)
        for seed in (0, 1)
    ]
)
TABLES = {
    "fit": (
        runs(),
        lambda d: him.LossEstimator.fit(d, "loss_x", ["quality"], permutations=9, bootstraps=9).coefficients,
    ),
    "compare": (runs(), lambda d: str(him.compare([RULE], d, "loss_x"))),
    "mixtures": (MIXTURES, lambda d: reach(him.run_sweep, Dataset.from_list(rows()), d, RECIPE, EVAL, "unused")),
    "size_report": (TRIALS, lambda d: him.size_report(d).best_size),
}


@pytest.mark.parametrize("entrance", TABLES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_tables_may_be_in_any_container_too(container, entrance, tmp_path, monkeypatch):
    table, enter = TABLES[entrance]
    monkeypatch.chdir(tmp_path)
    assert enter(CONTAINERS[container](table, tmp_path)) == enter(table)


# --- What no entrance takes ---------------------------------------------------------------------------------------

WRONG = {
    "splits": (
        DatasetDict(train=EVAL["mine"], test=EVAL["mine"]),
        r"is a DatasetDict of train, test: pass one of them, such as (\S+)\['train'\]$",
    ),
    "a generator": ((row for row in ()), r"is of type generator: pass a Dataset, one split of a DatasetDict, an Iter"),
    "nothing": (None, r"is of type NoneType: pass a Dataset, "),
    "a class": (Dataset, r"is the class Dataset: pass a Dataset, "),
    "a gap among rows": ([{"prompt": "a", "completion": "b"}, None], r"row 1 of \S+ is None \(NoneType\), not a dict"),
    "a text among rows": (
        [{"prompt": "a", "completion": "b"}, "c"],
        r"row 1 of \S+ is 'c' \(str\), not a dict of col",
    ),
    "a row": (
        {"prompt": "a", "completion": "b"},
        r"column 'prompt' of \S+ is a str, not a list with a value for each",
    ),
    "columns of two lengths": ({"prompt": ["a"], "completion": []}, r"of \S+ differ in length \('prompt' 1, 'comp"),
    "a file that is not there": ("absent.jsonl", r"^there is no file 'absent.jsonl'$"),
    "a transform": (
        EVAL["mine"].with_transform(lambda batch: batch),
        r"^\S+ has a transform, which would not be read: apply it with \S+\.map\(…\), or take it off with",
    ),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_taken_gets_the_same_line_everywhere(wrong, entrance, tmp_path):
    if wrong in ("a row", "columns of two lengths") and entrance in ("predict", "predict_subset", "contributions"):
        pytest.skip("a table of numbers is read by column")
    value, message = WRONG[wrong]
    with pytest.raises(InstructMineError, match=message) as refused:
        ENTRANCES[entrance](value, tmp_path)
    assert "\n" not in str(refused.value)


# --- Mapped over --------------------------------------------------------------------------------------------------

LAYOUTS = {
    "messages": {"messages": chats()[0]["messages"]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Say yes."}, {"from": "gpt", "value": "Yes."}]},
    "prompt/completion": {"prompt": "Say yes.", "completion": "Yes."},
    "prompt/completion, messages": {"prompt": CHAT, "completion": [{"role": "assistant", "content": "Yes."}]},
    "Alpaca": {"instruction": "Say yes.", "input": "", "output": "Yes."},
    "Alpaca without input": {"instruction": "Say yes.", "output": "Yes."},
    "Alpaca with a gap": {"instruction": "Say yes.", "input": None, "output": "Yes."},
    "Dolly": {"instruction": "Say yes.", "context": "", "response": "Yes."},
    "OpenOrca": {"system_prompt": "Be brief.", "question": "Say yes.", "response": "Yes."},
    "question/answer": {"question": "Say yes.", "answer": "Yes."},
    "MT-Bench": {"turns": ["Say yes.", "Say no."], "reference": ["Yes.", "No."]},
    "with other columns": {"id": 7, "question": "Say yes.", "answer": "Yes."},
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_an_indicator_maps_over_batches_alone_streams_too(row):
    pool = Dataset.from_list([row, row])
    for table in (pool, pool.to_iterable_dataset()):
        assert len(list(table.map(him.MTLD(), batched=True))) == 2
        with pytest.raises(InstructMineError, match=r"holds one row, not a batch of rows: pass batched=True"):
            list(table.map(him.MTLD()))


@pytest.mark.parametrize("format", ["numpy", "pandas", "arrow", "torch"])
@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_the_format_of_a_pool_changes_no_score_and_excuses_no_row(row, format):
    pool = Dataset.from_list([row, row])
    scored = pool.with_format(format).map(him.MTLD(), batched=True).with_format(None)
    assert plain(scored["mtld"][:]) == plain(pool.map(him.MTLD(), batched=True)["mtld"][:])
    if format in ("numpy", "torch"):  # in the others a row is a table of one, as a batch may be
        with pytest.raises(InstructMineError, match=r"holds one row, not a batch of rows: pass batched=True"):
            pool.with_format(format).map(him.MTLD())


def test_a_batch_of_one_row_is_a_batch():
    assert len(read_turns({"messages": [chats()[0]["messages"]]})) == 1
    assert len(read_turns({"turns": [["a"]], "reference": [["b"]]})) == 1
    assert read_turns({"prompt": [], "completion": []}) == []
