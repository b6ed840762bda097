"""A card says how its rows were made, so that somebody who has the card and the pool can make them again."""

import re
from pathlib import Path

import pytest
from datasets import load_dataset

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.cli import demo
from hf_instructmine.models.packaged import smollm2_135m


def follow(folder: Path, pool, models: dict[str, str], work: Path) -> him.Selection:
    """Does what a card says to do, in another place; `models` says where a reader has the models that it names."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), flags=re.DOTALL)[-1]
    code = code.replace("pool = ...", "pool = given").replace('"path/to/this/folder"', repr(str(folder)))
    for name, path in models.items():
        code = code.replace(f"'{name}'", repr(path))
    names = {"given": pool}
    exec(code, names)  # with the two assertions that the card ends in
    return names["selection"]


def test_the_demo_is_made_again_from_its_card(smollm2, tmp_path):
    pool = demo.demo_pool(quick=True).select(range(0, 100, 4))
    rule = demo.fit_demo_rule(demo.recorded_runs())
    scored = demo.score_demo_pool(pool, tmp_path / "scored")
    made = him.Selector(rule).select(scored, tokens=int(sum(scored["output_length"])) // 4)
    made.save_to_disk(tmp_path / "curated")
    again = follow(tmp_path / "curated", pool, {"SmolLM2-135M-Instruct": smollm2_135m()}, tmp_path)
    curated = load_dataset(str(tmp_path / "curated"), split="train", cache_dir=tmp_path / "cache")
    assert again.dataset.to_list() == curated.to_list()
    assert again.decisions.codes.tolist() == made.decisions.codes.tolist()


def test_another_pool_is_noticed(tmp_path):
    pool = him.load_sample_pool().select(range(30))
    scored = him.score(pool, [him.MTLD(threshold=0.5)])
    him.Selector(him.LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=5).save_to_disk(
        tmp_path / "curated"
    )
    assert follow(tmp_path / "curated", pool, {}, tmp_path).num_selected == 5
    with pytest.raises(AssertionError):
        follow(tmp_path / "curated", pool.select([1, 0, *range(2, 30)]), {}, tmp_path)


def test_a_column_whose_making_is_not_recorded_is_named(tmp_path):
    scored = him.load_sample_pool().select(range(4)).add_column("mtld", [1.0, 2.0, 3.0, 4.0])
    selection = him.Selector(him.LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=2)
    assert "# How 'mtld' was made is not recorded.\nindicators = [\n]" in selection.card.text


def test_the_seven_indicators_can_be_written_down():
    from hf_instructmine.selection.reproduce import ARGUMENTS, _call, _with_columns

    made = {"indicator": "Perplexity", "model": "me/m", "revision": "abc", "dtype": "bfloat16", "max_length": 2048,
            "turns": "all", "given": False, "include_eos": False, "weights": "xxh64:1"}  # fmt: skip
    call = _with_columns(_call(made), ["perplexity", "ifd"])
    assert call == (
        "him.Perplexity(model='me/m', revision='abc', dtype='bfloat16', max_length=2048, turns='all', given=False, "
        "also=['ifd'])"
    )
    for name, arguments in ARGUMENTS.items():
        try:
            eval(f"him.{name}({', '.join(f'{a}=None' for a in arguments)})", {"him": him})
        except (InstructMineError, TypeError, ValueError, AttributeError) as error:
            assert "unexpected keyword argument" not in str(error)
    assert _call({"indicator": "__import__('os').system"}) is None
