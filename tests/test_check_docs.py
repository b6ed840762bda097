"""The tool that runs the docs' commands: what it runs, with which numbers, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PAGE = """# A page

<!-- given: scored -->

```bash
instructmine select scored --rule rule --size 2000 --output-dir curated
```

<!-- output -->

```text
Selected 2,000 rows
```

<!-- not run: needs two GPUs -->

```bash
instructmine sweep --executor local
```

```yaml
# sweep.yaml
num_runs: 24
```

```python
print("one")
```

```python
raise SystemExit(1)
```
"""


@pytest.fixture(scope="module")
def check_docs():
    """The tool, as a module."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import check_docs

        yield check_docs
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def page(check_docs, tmp_path, monkeypatch):
    """The page above, in a repository of its own."""
    monkeypatch.setattr(check_docs, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    return "page.md"


def test_a_page_is_read_with_what_its_comments_say(check_docs, page):
    blocks, given = check_docs.read_page(page)
    assert [(block.line, block.language) for block in blocks] == [
        (5, "bash"), (17, "bash"), (21, "yaml"), (26, "python"), (30, "python"),
    ]  # fmt: skip
    assert given == ["scored"]
    assert [block.left_out for block in blocks] == [None, "needs two GPUs", None, None, None]
    assert blocks[0].expected == "Selected 2,000 rows\n" and blocks[1].expected is None


@pytest.mark.parametrize(
    ("written", "tried"),
    [
        ("select scored --size 2000 --output-dir curated", "select scored --size 12 --output-dir curated"),
        (
            "design_mixtures(scored, num_runs=24, subset_size=1000)",
            "design_mixtures(scored, num_runs=8, subset_size=6)",
        ),
        ("min_size=500, max_size=10_000", "min_size=4, max_size=20, num_trials=2, grid_seeds=2"),
        ("select(scored, size=100)", "select(scored, size=100)"),
        ('him.mine("a", "b", {"c": "d"}, 75, "e")', 'him.mine("a", "b", {"c": "d"}, 12, "e", num_runs=8, parts=4)'),
        (
            "instructmine mine a --eval-set b=c --size 75 --output-dir d",
            "instructmine mine a --eval-set b=c --size 12 --output-dir d --num-runs 8 --parts 4 --yes",
        ),
        (
            "instructmine mine a --strategy longest --output-dir d",
            "instructmine mine a --strategy longest --output-dir d --yes",
        ),
        ("score pool.jsonl --indicator MTLD", "score pool.jsonl --indicator MTLD"),
    ],
)
def test_numbers_are_made_small_and_nothing_else_is_changed(check_docs, written, tried):
    assert check_docs.Block("page.md", 1, "bash", written).quick == tried


def test_a_page_gets_the_folders_that_it_reads_and_not_those_that_it_writes(check_docs):
    def named(text):
        return check_docs.named_folders([check_docs.Block("page.md", 1, "bash", text)])

    assert named("instructmine select scored --rule rule --output-dir curated") == ["scored", "rule"]
    assert named("instructmine push curated me/curated") == ["curated"]
    assert named("instructmine sweep scored --output-dir sweep") == ["scored"]
    assert named("instructmine compare scored --rule mine=rule --output-dir comparison") == ["scored", "rule"]
    assert named('him.Selection.load("curated").save_to_disk("curated")') == ["curated"]


def test_yaml_blocks_become_files(check_docs, page, tmp_path):
    (tmp_path / "inputs").mkdir()
    check_docs.lay_out(tmp_path / "work", tmp_path / "inputs", [], check_docs.read_page(page)[0], tmp_path)
    assert (tmp_path / "work" / "sweep.yaml").read_text() == "# sweep.yaml\nnum_runs: 8\n"


def test_what_fails_is_named_by_page_and_line(check_docs, tmp_path):
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    good = check_docs.Block("page.md", 3, "python", "one = 1\n")
    wrong = check_docs.Block("page.md", 9, "python", "print(one)\none / 0\n")
    check_docs.run_python([good], tmp_path, env)
    with pytest.raises(check_docs.Wrong, match=r'(?s)^page.md:9: .*1\n.*"page.md", line 11'):
        check_docs.run_python([good, wrong], tmp_path, env)
    with pytest.raises(check_docs.Wrong, match=r"(?s)^page.md:4: .*gone"):
        check_docs.run_shell([check_docs.Block("page.md", 4, "bash", "true\nls gone\n")], tmp_path, env)


def test_shown_output_is_compared_but_for_its_numbers(check_docs):
    block = check_docs.Block("page.md", 1, "bash", "", expected="Selected 2,000 rows by  -0.5\n…\n")
    check_docs.compare(block, "before\nSelected 12 rows by 0.25\n")
    with pytest.raises(check_docs.Wrong, match="no line like 'Selected # rows by #'"):
        check_docs.compare(block, "Chose 12 rows\n")


def test_every_block_of_the_docs_is_run_or_says_why_not(check_docs):
    pages = [page for page in check_docs.pages() if (ROOT / page).exists()]
    blocks = [block for page in pages for block in check_docs.read_page(page)[0]]
    assert {"bash", "python", "yaml"} == {block.language for block in blocks}
    assert all(len(block.left_out) > 10 for block in blocks if block.left_out is not None)


def test_the_files_that_docs_name_are_rows_of_the_bundled_pool(check_docs, tmp_path):
    check_docs.write_inputs(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    assert len(rows) == 64 and {row["source"] for row in rows} == {"web", "books", "code"}
    assert len((tmp_path / "eval.jsonl").read_text().splitlines()) == 20
