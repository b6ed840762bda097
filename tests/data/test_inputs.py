"""Opening a pool from whatever holds it; files that cannot be read are refused with the place of the fault."""

import json
import re
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import HfApi

from hf_instructmine import InstructMineError
from hf_instructmine.data import files, inputs
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.data.inputs import Source, load_pool


ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "سؤال", "input": "文脈", "output": "🙂\x00\n</s> {{ x }}"},
]


def read(pool):
    return [(row.prompt_text, row.response) for row in read_conversations(pool[:])]


@pytest.fixture
def rows():
    return Dataset.from_list(ROWS)


@pytest.fixture(
    params=["rows.json", "rows.jsonl", "rows.parquet", "rows.csv", "saved", "saved_dict", "parquet_folder"],
)
def stored(request, rows, tmp_path):
    """The rows as each kind of input."""
    path = tmp_path / request.param
    {
        "rows.json": lambda: path.write_text(json.dumps(ROWS)),
        "rows.jsonl": lambda: rows.to_json(path),
        "rows.parquet": lambda: rows.to_parquet(path),
        "rows.csv": lambda: rows.to_csv(path),
        "saved": lambda: rows.save_to_disk(path),
        "saved_dict": lambda: DatasetDict(train=rows).save_to_disk(path),
        "parquet_folder": lambda: (path.mkdir(), rows.to_parquet(path / "train.parquet")),
    }[request.param]()
    return str(path)


def test_every_kind_of_input_gives_the_same_rows(stored, rows):
    assert read(load_pool([stored])) == read(rows)


def test_inputs_of_several_layouts_become_one_pool(tmp_path):
    (tmp_path / "alpaca.jsonl").write_text(json.dumps({"instruction": "a", "input": None, "output": "b"}))
    (tmp_path / "chats.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})
    )
    (tmp_path / "dolly.csv").write_text('instruction,context,response,source\ne,,f,"human, paid"\n')
    pool = load_pool([str(tmp_path / name) for name in ("alpaca.jsonl", "chats.jsonl", "dolly.csv")])
    assert read(pool) == [("a", "b"), ("c", "d"), ("e", "f")]
    assert pool["source"][:] == ["alpaca", "chats", "human, paid"]


def test_one_input_gets_no_column_it_did_not_have(tmp_path, rows):
    rows.to_json(tmp_path / "rows.jsonl")
    assert load_pool([str(tmp_path / "rows.jsonl")]).column_names == ["instruction", "input", "output"]


def test_inputs_that_do_not_join_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b", "source": 1}')
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "completion": "b", "source": "web"}')
    with pytest.raises(InstructMineError, match=r"^the inputs do not join into one pool: .*source.*; rename") as error:
        load_pool([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert "\n" not in str(error.value)


def test_a_sample_is_random_with_a_seed_and_in_the_pools_order(tmp_path):
    Dataset.from_dict({"prompt": list("abcdefghij") * 10, "number": range(100)}).to_parquet(tmp_path / "p.parquet")
    one, again, other = (
        load_pool([str(tmp_path / "p.parquet")], sample=20, seed=seed)["number"][:] for seed in (0, 0, 1)
    )
    assert one == again == sorted(one)
    assert len(set(one)) == 20
    assert one != other
    assert one != list(range(20))


@pytest.mark.parametrize("sample", [0, -1, 3])
def test_a_sample_must_fit_the_pool(tmp_path, rows, sample):
    rows.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InstructMineError, match=f"a sample of {sample} rows cannot be taken from a pool of 2"):
        load_pool([str(tmp_path / "p.parquet")], sample=sample)


def test_a_name_that_no_file_can_have_is_one_short_line():
    with pytest.raises(InstructMineError, match=r"x…' is the name of no file and no dataset: File name too long$"):
        load_pool("x" * 300)


def test_a_split_is_chosen_or_named_among_those_there_are(tmp_path, rows):
    DatasetDict(good=rows, bad=rows.select([0])).save_to_disk(tmp_path / "saved")
    assert len(load_pool([str(tmp_path / "saved")], split="bad")) == 1
    with pytest.raises(InstructMineError, match="has no split 'train': it has good, bad"):
        load_pool([str(tmp_path / "saved")])


def test_answers_that_look_like_a_missing_value_are_answers(tmp_path):
    (tmp_path / "rows.csv").write_text("question,answer\na,None\nb,null\nc,N/A\nd,\n")
    assert [response for _, response in read(load_pool([str(tmp_path / "rows.csv")]))] == ["None", "null", "N/A", ""]


def test_an_empty_column_of_a_csv_file_is_text(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction,input,output,mtld\na,,b,\nc,,d,1.5\n")
    pool = load_pool([str(tmp_path / "rows.csv")])
    assert read(pool) == [("a", "b"), ("c", "d")]
    assert pool["mtld"][1] == 1.5


# --- Files that cannot be read ------------------------------------------------------------------------------------

SOUND = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize("name", ["none.jsonl", "none.json", "none.csv"])
@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InstructMineError, match=f"the file '.*{name}' is empty: there is no row to score or select"):
        load_pool([str(tmp_path / name)])


@pytest.mark.parametrize("name, content", [("none.json", b"[]"), ("none.csv", b"prompt,completion\n")])
def test_a_file_without_a_row_is_refused(tmp_path, name, content):
    test_an_empty_file_is_refused(tmp_path, name, content)


def test_a_parquet_file_without_a_row_is_refused(tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "none.parquet")
    with pytest.raises(InstructMineError, match="is empty: there is no row"):
        load_pool([str(tmp_path / "none.parquet")])


@pytest.mark.parametrize(
    "line, fault",
    [
        (b'{"prompt": "a", "completion": "b \\ud83d c"}', r"line 3 holds \ud83d, half of a surrogate pair"),
        (b'{"prompt": "a", "completion": "b"', "line 3 is not JSON (Expecting ',' delimiter at"),
        (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "line 3 has the column 'prompt' twice"),
        (b"[1, 2]", "line 3 is '[1, 2]', not an object"),
    ],
)
def test_the_broken_line_of_a_jsonl_file_is_named(tmp_path, line, fault):
    (tmp_path / "rows.jsonl").write_bytes(SOUND * 2 + line + b"\n" + SOUND)
    with pytest.raises(InstructMineError) as error:
        load_pool([str(tmp_path / "rows.jsonl")])
    assert str(error.value).startswith(f"cannot read '{tmp_path}/rows.jsonl': {fault}")
    assert str(error.value).endswith("; mend the file")
    assert "\n" not in str(error.value)
    str(error.value).encode()


def test_a_whole_surrogate_pair_is_its_character(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a", "completion": "\\ud83d\\ude00"}')
    assert read(load_pool([str(tmp_path / "rows.jsonl")])) == [("a", "😀")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
@pytest.mark.parametrize("text", ["é".encode("latin-1"), b"\xed\xa0\x80"], ids=["latin-1", "surrogate"])
def test_a_file_that_is_not_utf_8_is_refused_by_line(tmp_path, name, text):
    (tmp_path / name).write_bytes(SOUND + b'{"prompt": "' + text + b'", "completion": "b"}\n')
    with pytest.raises(InstructMineError, match=rf"{name}', line 2, is not UTF-8 text \(byte 0x.. at 12\): convert"):
        load_pool([str(tmp_path / name)])


def test_duplicated_column_names_are_refused(tmp_path):
    pq.write_table(
        pa.table([["a"], ["b"], ["c"]], names=["prompt", "completion", "completion"]), tmp_path / "twice.parquet"
    )
    (tmp_path / "twice.csv").write_text("prompt,completion,completion\na,b,c\n")
    for name in ("twice.parquet", "twice.csv"):
        with pytest.raises(InstructMineError, match=f"{name}' has the column 'completion' twice: rename one of them"):
            load_pool([str(tmp_path / name)])


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.csv"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(InstructMineError, match=f"^there is no file '.*{name}'$"):
        load_pool([str(tmp_path / name)])


@pytest.mark.parametrize("name", ["absent", "empty", "notes.txt", "damaged.parquet"])
def test_what_is_no_dataset_is_named_in_one_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "damaged.parquet").write_text("hello")
    with pytest.raises(InstructMineError, match=f"^cannot (open|read) '{tmp_path / name}': ") as error:
        load_pool([str(tmp_path / name)])
    assert "\n" not in str(error.value)


def test_a_hub_dataset_without_a_network_is_named_in_one_line():
    with pytest.raises(
        InstructMineError, match=r"^cannot open 'nobody/no-such-data': .*which needs a network"
    ) as error:
        load_pool(["nobody/no-such-data"])
    assert "\n" not in str(error.value)


def test_no_input_at_all():
    with pytest.raises(InstructMineError, match="no input was given"):
        load_pool([])


def test_a_hub_dataset_is_opened(hub, rows):
    rows.push_to_hub("me/rows")
    assert read(load_pool(["me/rows"])) == read(rows)


def test_a_folder_that_is_gone_is_not_taken_from_the_cache(tmp_path, rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scored").mkdir()
    rows.to_parquet("scored/train.parquet")
    assert read(load_pool("scored")) == read(rows)
    (tmp_path / "scored/train.parquet").unlink()
    (tmp_path / "scored").rmdir()
    with pytest.raises(InstructMineError, match=r"^cannot open 'scored': .*; give a file "):
        load_pool("scored")


def test_a_hub_dataset_may_be_named_without_its_owner_where_the_hub_knows_it(hub, rows, monkeypatch):
    rows.push_to_hub("me/rows")
    with pytest.raises(InstructMineError, match=r"^cannot open 'rows': "):
        load_pool("rows")
    known = HfApi.dataset_info

    def dataset_info(api, name, **options):
        return SimpleNamespace(id="me/rows") if name == "rows" else known(api, name, **options)

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    assert read(load_pool("rows:train")) == read(rows)


# --- Splits and configurations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, source",
    [
        ("rows.jsonl", Source("rows.jsonl")),
        ("me/rows", Source("me/rows")),
        ("me/rows:test", Source("me/rows", None, "test")),
        ("me/rows:main:test", Source("me/rows", "main", "test")),
        ("me/rows:2024-01.v2:test", Source("me/rows", "2024-01.v2", "test")),
        ("me/rows:train[:10%]", Source("me/rows", None, "train[:10%]")),
        ("me/rows:train+test", Source("me/rows", None, "train+test")),
        ("C:\\data\\rows.jsonl", Source("C:\\data\\rows.jsonl")),
        ("C:/data/rows.jsonl", Source("C:/data/rows.jsonl")),
        ("C:rows", Source("C:rows")),
        ("D:/data/saved:test", Source("D:/data/saved", None, "test")),
        ("hf://datasets/me/rows", Source("hf://datasets/me/rows")),
        ("https://host:8080/rows.jsonl", Source("https://host:8080/rows.jsonl")),
    ],
)
def test_a_split_and_a_configuration_follow_a_colon(text, source):
    assert Source.parse(text) == source


def test_a_file_or_folder_of_that_very_name_goes_first(tmp_path, rows):
    rows.to_json(tmp_path / "data:test")
    assert Source.parse(f"{tmp_path}/data:test").split is None
    rows.to_parquet(tmp_path / "14:30:rows.parquet")
    assert read(load_pool(tmp_path / "14:30:rows.parquet")) == read(rows)


@pytest.fixture
def folder(tmp_path, rows) -> str:
    """A folder of two configurations, one of which has no split `train`."""
    for name in ("main", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
    rows.to_parquet(tmp_path / "data/main/train.parquet")
    rows.select([0]).to_parquet(tmp_path / "data/main/test.parquet")
    rows.select([1]).to_parquet(tmp_path / "data/other/test.parquet")
    card = "---\nconfigs:\n- config_name: main\n  data_dir: main\n- config_name: other\n  data_dir: other\n---\n"
    (tmp_path / "data/README.md").write_text(card)
    return str(tmp_path / "data")


@pytest.mark.parametrize(
    "named, split, found",
    [
        (":main:train", None, [0, 1]),
        (":main:test", None, [0]),
        (":main:test", "train", [0]),  # what an input names goes before what is said of all
        (":main:train[1:]", None, [1]),
        (":main:train+test", None, [0, 1, 0]),
        (":other:test", None, [1]),
    ],
)
def test_a_split_of_a_configuration_is_opened(folder, rows, named, split, found):
    assert read(load_pool(folder + named, split)) == read(rows.select(found))


def test_several_configurations_are_named(folder):
    with pytest.raises(InstructMineError) as refused:
        load_pool(folder)
    assert str(refused.value) == (
        f"'{folder}' has the configurations 'main', 'other': name one, as in {folder}:CONFIG:SPLIT"
    )
    with pytest.raises(InstructMineError, match=rf"^'{folder}:main' has no split 'dev': it has train, test; name one"):
        load_pool(f"{folder}:main:dev")
    with pytest.raises(InstructMineError, match=r"^cannot open '.*': BuilderConfig 'none' not found"):
        load_pool(f"{folder}:none:train")


@pytest.mark.parametrize("kind", ["saved", "a folder"])
def test_train_is_meant_or_the_only_split(tmp_path, rows, kind):
    def store(**splits: Dataset) -> str:
        folder = tmp_path / "-".join(splits)
        if kind == "saved":
            DatasetDict(splits).save_to_disk(folder)
        for name, part in () if kind == "saved" else splits.items():
            folder.mkdir(exist_ok=True)
            part.to_parquet(folder / f"{name}.parquet")
        return str(folder)

    one, two = rows.select([0]), rows.select([1])
    assert read(load_pool(store(test=one))) == read(one)
    assert read(load_pool(store(validation=two))) == read(two)
    assert read(load_pool(store(train=one, test=two))) == read(one)
    assert read(load_pool(store(train=one, test=two) + ":test")) == read(two)
    assert read(load_pool(store(train=one, test=two), split="test")) == read(two)
    with pytest.raises(InstructMineError) as refused:
        load_pool(store(validation=one, test=two))
    folder = tmp_path / "validation-test"
    found, first = re.fullmatch(
        rf"'{folder}' has no split 'train': it has (.*); name one, as in {folder}:(\w+)", str(refused.value)
    ).groups()
    assert sorted(found.split(", ")) == ["test", "validation"] and found.startswith(first)
    with pytest.raises(InstructMineError, match="has no split 'train': it has test"):
        load_pool(store(test=one), split="train")


def test_a_file_has_no_split(tmp_path, rows):
    rows.to_json(tmp_path / "rows.jsonl")
    with pytest.raises(InstructMineError, match=r"rows.jsonl' is a file, which has no split: leave ':test' away"):
        load_pool(f"{tmp_path}/rows.jsonl:test")
    assert read(load_pool(tmp_path / "rows.jsonl", split="test")) == read(rows)  # said of those that have splits


def test_a_saved_dataset_has_no_configuration_and_may_have_no_split(tmp_path, rows):
    rows.save_to_disk(tmp_path / "one")
    DatasetDict(train=rows).save_to_disk(tmp_path / "splits")
    with pytest.raises(InstructMineError, match=r"one' was saved without splits: leave what follows its name away"):
        load_pool(f"{tmp_path}/one:test")
    with pytest.raises(InstructMineError, match=r"splits' was saved without configurations: leave what follows"):
        load_pool(f"{tmp_path}/splits:main:train")


def test_two_splits_of_one_dataset_are_two_sources(folder, tmp_path, rows):
    rows.to_json(tmp_path / "rows.jsonl.gz", compression="gzip")
    pool = load_pool([f"{folder}:main:test", f"{folder}:other:test", tmp_path / "rows.jsonl.gz"])
    assert pool["source"][:] == ["data:main:test", "data:other:test", "rows", "rows"]


def test_a_sweeps_folder_is_no_pool(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(InstructMineError, match=rf"^'{tmp_path}' holds a sweep: load_runs\('{tmp_path}'\) opens its"):
        load_pool(tmp_path)


# --- Inputs that somebody else writes to, and disks that are full ----------------------------------------------------


@pytest.mark.parametrize("kind", ["rows.jsonl", "rows.parquet", "folder"])
@pytest.mark.parametrize("fails", [False, True], ids=["read", "not read"])
def test_an_input_that_changes_while_it_is_read_is_refused_by_name(rows, tmp_path, monkeypatch, kind, fails):
    path = file = tmp_path / kind
    if kind == "folder":
        path.mkdir()
        file = path / "train.parquet"
    (rows.to_json if file.suffix == ".jsonl" else rows.to_parquet)(file)

    def load(*given, loaded=inputs.load_dataset, **options):
        pool = loaded(*given, **options)
        with file.open("ab") as more:
            more.write(b'{"instruction": "a", "input": "", "output": "b"}\n')
        if fails:
            raise ValueError("half a row")
        return pool

    monkeypatch.setattr(inputs if path.is_dir() else files, "load_dataset", load)
    told = f"^'{re.escape(str(file))}' changed while it was read: wait until whoever writes it has finished, and start"
    with pytest.raises(InstructMineError, match=told):
        load_pool(path)
    monkeypatch.undo()
    assert file.suffix == ".parquet" or len(load_pool(path)) == 3


def test_what_others_write_beside_the_rows_does_not_matter(rows, tmp_path):
    rows.to_parquet(tmp_path / "rows.parquet")
    with files.unchanged(tmp_path):
        (tmp_path / ".columns").mkdir()
        for name in ("log.txt", ".columns/000000000.parquet", ".rows.parquet.17"):
            (tmp_path / name).write_text("new")


@pytest.mark.parametrize("kind", ["rows.jsonl", "folder"])
@pytest.mark.parametrize("full", [OSError(28, "No space left"), OSError("Not enough disk space. Needed: 9 GB")])
def test_a_disk_without_room_for_the_copy_is_one_line_with_the_mend(rows, tmp_path, monkeypatch, kind, full):
    path = tmp_path / kind
    path.mkdir() if kind == "folder" else rows.to_json(path)

    def load(*given, **options):
        raise DatasetGenerationError("An error occurred") from full

    for module in (inputs, files):
        monkeypatch.setattr(module, "load_dataset", load)
    told = f"^there is no room for '{re.escape(str(path))}' in '.*', where .*: make room, or .*HF_DATASETS_CACHE$"
    with pytest.raises(InstructMineError, match=told):
        load_pool(path)


def test_joined_inputs_are_not_written_to_the_cache_again(tmp_path, rows):
    rows.to_parquet(tmp_path / "a.parquet")
    large = pa.schema([(name, pa.large_string()) for name in rows.column_names])
    pq.write_table(rows.data.table.cast(large), tmp_path / "b.parquet")
    alone = [load_pool(tmp_path / f"{name}.parquet") for name in "ab"]
    pool = load_pool([tmp_path / f"{name}.parquet" for name in "ab"])
    assert pool["source"][:] == ["a"] * 2 + ["b"] * 2
    assert [file["filename"] for file in pool.cache_files] == [f["filename"] for a in alone for f in a.cache_files]
