"""Files of rows in every kind, plain or compressed, in any case of their names; cells of CSV that hold texts."""

import bz2
import gzip
import json
import lzma

import pytest
from datasets import Dataset, Value

from hf_instructmine import InstructMineError
from hf_instructmine.cli.main import main
from hf_instructmine.data.columns import numeric_column
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.data.files import FileKind
from hf_instructmine.data.inputs import load_pool


ROWS = [{"prompt": "Name a colour.", "completion": "Blue."}, {"prompt": "Überall?", "completion": None}]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)
TABLE = "prompt,completion\nName a colour.,Blue.\nÜberall?,\n"


def zstd(content: bytes) -> bytes:
    return pytest.importorskip("zstandard", reason="pip install zstandard").compress(content)


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd, "": bytes}
CONTENT = {
    ".json": json.dumps(ROWS), ".jsonl": LINES, ".ndjson": LINES, ".csv": TABLE, ".tsv": TABLE.replace(",", "\t"),
}  # fmt: skip


def in_mixed_case(name: str) -> str:
    return "".join(letter.upper() if i % 2 else letter for i, letter in enumerate(name))


@pytest.mark.parametrize("case", [str.lower, str.upper, in_mixed_case])
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("suffix", CONTENT)
def test_a_file_of_any_kind_is_read(tmp_path, suffix, compression, case):
    name = f"rows{suffix}{compression}"
    path = tmp_path / (name if name.endswith("sv.zst") else case(name))  # pandas knows that one in lower case alone
    path.write_bytes(COMPRESS[compression](CONTENT[suffix].encode()))
    assert list(load_pool(path)) == ROWS


def test_parquet_is_read_in_any_case(tmp_path):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "ROWS.PARQUET")
    assert list(load_pool(tmp_path / "ROWS.PARQUET")) == ROWS


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.jsonl.zip", "rows.xlsx", "rows.parquet.gz", "rows.gz"])
def test_another_kind_of_file_is_refused_with_those_that_are_read(tmp_path, name):
    (tmp_path / name).write_text("text")
    assert FileKind.of(name) is None
    with pytest.raises(InstructMineError) as refused:
        load_pool(tmp_path / name)
    assert str(refused.value) == (
        f"cannot read '{tmp_path / name}': not a kind of file that is read: .json, .jsonl, .ndjson, .csv, .tsv, "
        ".parquet (all but the last also with .gz, .bz2, .xz, .zst)"
    )


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_the_broken_line_of_a_compressed_file_is_named(tmp_path, compression):
    path = tmp_path / f"rows.jsonl{compression}"
    path.write_bytes(COMPRESS[compression](b'{"prompt": "a", "completion": "b"}\n{"prompt": \n'))
    with pytest.raises(InstructMineError, match=rf"^cannot read '{path}': line 2 is not JSON \(Expecting value at"):
        load_pool(path)
    path.write_bytes(COMPRESS[compression](b'{"prompt": "a"}\n{"prompt": "\xe9"}\n'))
    with pytest.raises(InstructMineError, match=rf"'{path}', line 2, is not UTF-8 text \(byte 0xe9 at 12\)"):
        load_pool(path)
    path.write_bytes(COMPRESS[compression](b"\n"))
    with pytest.raises(InstructMineError, match="is empty: there is no row"):
        load_pool(path)


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_half_an_archive_is_refused_in_one_line(tmp_path, suffix, compression):
    path = tmp_path / f"rows{suffix}{compression}"
    whole = COMPRESS[compression](CONTENT[suffix].encode())
    for content in (whole[:-4], whole[: len(whole) // 2], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(InstructMineError, match=f"^cannot read '{path}': .*; mend the file$") as refused:
            load_pool(path)
        assert "\n" not in str(refused.value)


def test_zstandard_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "rows.jsonl.zst").write_bytes(b"")
    with pytest.raises(InstructMineError, match=r"rows.jsonl.zst' needs zstandard: pip install zstandard$"):
        load_pool(tmp_path / "rows.jsonl.zst")


# --- Cells of CSV -------------------------------------------------------------------------------------------------

NUMBERS = """question,answer,source,mtld,quality,note,knn_6
1,007,1,1.5,3,x,
2,2021-03-01,2,nan,4,None,0.5
3,,3,NA,5,,0.25
4,1e5,4,2,6,true,
"""


@pytest.fixture
def numbers(tmp_path) -> Dataset:
    (tmp_path / "numbers.csv").write_text(NUMBERS)
    return load_pool(tmp_path / "numbers.csv")


def test_texts_of_a_csv_file_stay_as_they_are_written(numbers):
    read = read_conversations(numbers[:])
    assert [(row.prompt_text, row.response) for row in read[:2]] == [("1", "007"), ("2", "2021-03-01")]
    assert [row.problem for row in read] == [None, None, "missing response", None]
    assert read[3].response == "1e5"
    assert numbers["source"][:] == ["1", "2", "3", "4"]
    assert numbers["note"][:] == ["x", "None", None, "true"]


def test_numbers_of_a_csv_file_are_numbers_and_gaps_among_indicators_are_gaps(numbers):
    assert numeric_column(numbers, "quality").tolist() == [3, 4, 5, 6]
    assert str(numeric_column(numbers, "mtld").tolist()) == "[1.5, nan, nan, 2.0]"
    assert str(numeric_column(numbers, "knn_6").tolist()) == "[nan, 0.5, 0.25, nan]"


def test_an_indicator_without_any_value_is_no_text(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,completion,mtld,note\na,b,,\nc,d,,\n")
    pool = load_pool(tmp_path / "rows.csv")
    assert (pool.features["mtld"].dtype, pool.features["note"].dtype) == ("float64", "string")


def test_named_columns_of_a_csv_file_are_texts(tmp_path):
    (tmp_path / "rows.csv").write_text("q,a,n\n1,007,3\n")
    pool = load_pool(tmp_path / "rows.csv", columns={"prompt": "q", "response": "a"})
    assert pool[0] == {"q": "1", "a": "007", "n": 3}


def test_a_table_of_numbers_is_a_table_of_numbers(tmp_path):
    (tmp_path / "runs.csv").write_text("mixture_id,loss_x,reward\n0,1.5,2\n1,1.25,nan\n")
    runs = load_pool(tmp_path / "runs.csv")
    assert runs.features["mixture_id"] == Value("int64")
    assert str(numeric_column(runs, "reward").tolist()) == "[2.0, nan]"


def test_a_folder_of_csv_files_is_read_as_a_file_is(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text(NUMBERS)
    pool = load_pool(tmp_path / "data")
    assert [row.response for row in read_conversations(pool[:])][:2] == ["007", "2021-03-01"]
    assert str(numeric_column(pool, "mtld").tolist()) == "[1.5, nan, nan, 2.0]"


def test_more_rows_than_are_read_at_a_time_have_one_type(tmp_path):
    answers = [str(i) for i in range(10_000)] + ["a word"]
    (tmp_path / "rows.csv").write_text("prompt,completion\n" + "".join(f"q,{answer}\n" for answer in answers))
    assert load_pool(tmp_path / "rows.csv")["completion"][:] == answers


def test_the_command_scores_numbers_as_text(tmp_path, capsys):
    (tmp_path / "numbers.csv").write_text("question,answer\n1,007\n2,8\n")
    command = ["score", str(tmp_path / "numbers.csv"), "--indicator", "MTLD", "--output-dir", str(tmp_path / "out")]
    assert main(command) == 0
    assert load_pool(tmp_path / "out")["answer"][:] == ["007", "8"]
    (tmp_path / "named.csv").write_text("q,a\n1,007\n2,8\n")
    command[1], command[-1] = str(tmp_path / "named.csv"), str(tmp_path / "named")
    assert main([*command, "--columns", "prompt=q,response=a"]) == 0
    assert load_pool(tmp_path / "named")["a"][:] == ["007", "8"]
