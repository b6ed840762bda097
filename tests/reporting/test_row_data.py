"""The rows as data: what is written is what was read, in little room."""

import base64
import gzip
import json
import re
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine.reporting import rows as module
from hf_instructmine.reporting.contents import open_contents
from hf_instructmine.reporting.fates import Judged, judge_rows
from hf_instructmine.reporting.rows import shown_text, write_rows


def read(path) -> dict[str, bytes]:
    found = re.findall(r'<script type="application/octet-stream" id="([\w-]+)">([\w+/=]*)</script>', path.read_text())
    return {name: gzip.decompress(base64.b64decode(packed)) for name, packed in found}


def texts(elements: dict[str, bytes], block: int = 0) -> list[str]:
    content = elements[f"texts-{block}"]
    (first,) = np.frombuffer(content[:4], "<u4")
    for count in range(1, len(content) // 4 + 1):  # lengths come first: as many as add up with the texts behind them
        lengths = np.frombuffer(content[: 4 * count], "<u4")
        if 4 * count + lengths.sum() == len(content):
            ends = 4 * count + np.cumsum(lengths)
            return [content[end - size : end].decode() for end, size in zip(ends, lengths)]
    raise AssertionError(first)


def table(columns: dict) -> Judged:
    rows = Dataset.from_dict(columns)
    return Judged(rows, True, np.zeros(len(rows), np.uint8), ["selected", "beyond the size"], has_text=True)


def test_rows_are_kept_in_columns(mined, tmp_path):
    contents = open_contents(mined, None, tmp_path / "cache")
    judged = judge_rows(contents, None)
    data = write_rows(judged, contents.rule, None, False, tmp_path / "rows.html")
    elements = read(tmp_path / "rows.html")
    head, n = json.loads(elements["rows"]), 60
    assert (head["rows"], head["decisions"], head["most"]) == (n, judged.names, 2000)
    assert [(c["name"], c["kind"]) for c in head["columns"]] == [
        ("predicted log loss", "prediction"), ("reward", "contribution"), ("log(mtld)", "contribution"),
        ("reward", "indicator"), ("mtld", "indicator"),
    ]  # fmt: skip
    numbers = elements["numbers"]
    assert np.array_equal(np.frombuffer(numbers[: 4 * n], "<u4"), np.arange(n))
    assert np.array_equal(np.frombuffer(numbers[8 * n : 9 * n], np.uint8), judged.codes)
    predicted = np.frombuffer(numbers[9 * n : 13 * n], "<f4")  # 60 decisions need no padding
    assert predicted == pytest.approx(judged.log_loss, rel=1e-6, nan_ok=True)
    sources = np.frombuffer(numbers[4 * n : 8 * n], "<u4")
    assert [head["sources"][k] for k in sources[:2]] == ["web", "human"]
    assert data.usable.sum() == 59 and not data.usable[51]
    assert len(texts(elements)) == 2 * n


def test_a_block_is_a_thousand_rows_and_a_row_without_text_is_empty(tmp_path):
    judged = table({"prompt": [f"p{n}" for n in range(1001)], "completion": ["r"] * 1000 + [None]})
    data = write_rows(judged, None, None, False, tmp_path / "rows.html")
    elements = read(tmp_path / "rows.html")
    assert data.blocks == 2
    assert texts(elements, 0)[:4] == ["p0", "r", "p1", "r"] and texts(elements, 1) == ["", "(missing response)"]
    assert data.usable.sum() == 1000


def test_texts_are_cut_or_whole(tmp_path):
    judged = table({"prompt": ["x" * 5000], "completion": ["y" * 1_000_000]})
    for full, sizes in ((False, [2001, 2001]), (True, [5000, 1_000_000])):
        data = write_rows(judged, None, None, full, tmp_path / "rows.html")
        assert [len(text) for text in texts(read(tmp_path / "rows.html"))] == sizes
        assert data.most == (None if full else 2000)


def test_the_cut_is_shorter_where_the_page_would_be_too_large(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0x4E00, 0x9FFF, (300, 2000))  # Chinese: three bytes a character
    judged = table({"prompt": ["".join(map(chr, row)) for row in noise], "completion": ["a"] * 300})
    monkeypatch.setattr(module, "_MOST_BYTES", 200_000)
    data = write_rows(judged, None, None, False, tmp_path / "rows.html")
    assert data.most in (180, 120)
    assert (tmp_path / "rows.html").stat().st_size < 220_000


def test_of_a_large_pool_the_selected_rows_are_all_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 50)
    judged = table({"prompt": [f"p{n}" for n in range(500)], "completion": ["r"] * 500, "reward": np.arange(500.0)})
    judged.codes[:] = 1
    judged.codes[::20] = 0
    data = write_rows(judged, None, None, False, tmp_path / "rows.html")
    assert len(data.shown) == 50 and set(range(0, 500, 20)) <= set(data.shown.tolist())
    assert data.notes[0].startswith("The table has 50 of the 500 rows")
    assert texts(read(tmp_path / "rows.html"))[::2] == [f"p{n}" for n in data.shown]


def test_a_conversation_says_who_speaks(tmp_path):
    messages = [{"role": r, "content": c} for r, c in (("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"))]
    write_rows(table({"messages": [messages]}), None, None, False, tmp_path / "rows.html")
    assert texts(read(tmp_path / "rows.html")) == ["system: Be brief.\n\nuser: Hi", "Ho"]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\x00b\x1b[2J\x7f", "a�b�[2J�"),
        ("\u202egnp.exe\u2069", "�gnp.exe�"),
        ("a \ud800 b", "a � b"),
        ("line\r\nline\tend", "line\nline\tend"),
        ("👩‍👩‍👧 می‌خواهم 東京 e\u0301", "👩‍👩‍👧 می‌خواهم 東京 e\u0301"),
    ],
)
def test_what_cannot_be_seen_is_shown_and_writing_of_any_script_stays(text, shown):
    assert shown_text(text, None) == shown


def test_memory_does_not_grow_with_the_rows(tmp_path):
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.parquet"
        Dataset.from_dict({"prompt": ["word " * 200] * rows, "completion": ["a b c"] * rows}).to_parquet(str(path))
        judged = table({"prompt": ["a"], "completion": ["b"]})
        judged.rows = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / f"cache{rows}"))
        judged.codes = np.zeros(rows, np.uint8)
        tracemalloc.start()
        write_rows(judged, None, None, False, tmp_path / "rows.html")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12_000) < 1.5 * peak(3000)
