"""The steps of docs/mine.md, copied into a notebook, select what the whole path selects."""

import re
from pathlib import Path

from test_mine import SMALL, asked, mined  # noqa: F401

import hf_instructmine as him
from hf_instructmine.outputs.records import Records


DOCS = Path(__file__).parents[2] / "docs" / "mine.md"


def test_the_steps_of_the_page_select_the_same(mined, asked, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL) if "run_sweep" in c]
    plan = Records(mined).read(mined / "mine.json")["plan"]
    given = r"(?m)^(pool, eval_sets|model, recipe) = .*\n"
    assert len(re.findall(given, code)) == 2
    code = re.sub(given, "", code)
    small = {"num_runs=24": f"num_runs={SMALL['num_runs']}", "size=75": f"size={SMALL['size']}"}
    small |= {"parts=8": f"parts={SMALL['parts']}", '"loss_mine"': '"loss_own"'}
    small |= {"=8_000": f"={plan['subset_tokens']}", "tokens=[1_000]": f"tokens=[{plan['part_tokens']}]"}
    for usual, one in small.items():
        assert usual in code
        code = code.replace(usual, one)
    names = {
        "pool": asked["pool"], "model": asked["model"], "eval_sets": asked["eval_sets"],
        "recipe": {**asked["recipe"], "model_name_or_path": asked["model"]},
    }  # fmt: skip
    exec(code, names)
    made = him.Selection.load(mined / "curated")
    assert names["selection"].indices.tolist() == made.indices.tolist()
    assert names["comparison"].verdict() == him.load_comparison(mined / "comparison").verdict()
    assert (tmp_path / "by-hand" / "report.html").is_file()


def test_the_page_of_calls_stays_short():
    import inspect

    body = inspect.getsource(him.mine).split('"""', 2)[2].strip().splitlines()
    assert len(body) < 60 and len(inspect.getsource(him.mine).splitlines()) <= 130
