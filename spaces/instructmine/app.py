"""A Space for the whole of it: a small pool and a rule or a strategy in, the rows that it keeps out, and what is known
of its worth.

    python spaces/instructmine/app.py
"""

import html
import tempfile
from pathlib import Path
from typing import Any

import gradio
import numpy as np
from datasets import Dataset, disable_progress_bars

import hf_instructmine as him
from hf_instructmine.comparison.strategies import check_strategy, choose_rows
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.data.texts import usable_rows
from hf_instructmine.estimator.verdict import paragraph
from hf_instructmine.indicators.space import FILES, histogram, in_one_line, open_file, settings


MAX_ROWS = 5000
MAX_SHOWN = 200
RULE = "a rule: estimator.json, for a pool that holds its columns"
STRATEGIES = {
    "longest responses": "highest:output_characters",
    "most diverse words (MTLD)": "highest:mtld",
    "at random": "random",
}
NO_RULE = (
    "**This is no rule.** Nothing here says that these rows train a better model than as many random ones. "
    "`instructmine compare` measures it, with your model and your data."
)


def opened(path: str | None) -> Dataset:
    """The pool: a visitor's file, or the sample that the package ships.

    Raises:
        [`InstructMineError`]: Where it cannot be read, or has more rows than this page takes.
    """
    pool = him.load_sample_pool() if path is None else open_file(path)
    if len(pool) > MAX_ROWS:
        raise him.InstructMineError(
            f"{len(pool):,} rows are more than the {MAX_ROWS:,} of this page: install hf-instructmine"
        )
    return pool


def scored(pool: Dataset) -> Dataset:
    """The pool with what costs nothing to score: MTLD, and the characters of each response."""
    if "mtld" not in pool.column_names:
        pool = him.score(pool, him.MTLD())
    lengths = [float(len(c.response)) if c.problem is None else np.nan for c in read_conversations(pool[:])]
    return pool.remove_columns({"output_characters"} & {*pool.column_names}).add_column("output_characters", lengths)


def select(path: str | None, way: str, rule: str | None, size: float, seed: float) -> tuple[Any, ...]:
    """What is known of the choice, a figure of what was chosen, the chosen rows as a table, and as a file."""
    pool = scored(opened(path))
    if way == RULE:
        chosen, worth = by_rule(pool, rule, int(size))
    else:
        chosen, worth = by_strategy(pool, STRATEGIES[way], int(size), int(seed)), NO_RULE
    kept = pool.select(chosen)
    place = Path(tempfile.mkdtemp()) / "selected.jsonl"
    kept.to_json(str(place))
    texts = [[c.prompt_text, c.response if c.problem is None else ""] for c in read_conversations(kept[:MAX_SHOWN])]
    told = f"{worth}\n\n{len(kept):,} of {len(pool):,} rows; the table shows the first {len(texts)}."
    return told, kept_against_pool(pool, kept), texts, str(place)


def by_strategy(pool: Dataset, strategy: str, size: int, seed: int) -> np.ndarray:
    """Rows that have a response and are no copy of an earlier one, from one end of a column or at random."""
    check_strategy("chosen", strategy, pool)
    usable = usable_rows(pool, None, copies=False)
    return choose_rows(pool, strategy, {"size": size}, usable, np.ones(len(pool)), (seed,))


def by_rule(pool: Dataset, path: str | None, size: int) -> tuple[np.ndarray, str]:
    """Rows of the lowest predicted loss, and what the rule is worth by its own diagnostics."""
    if path is None:
        raise him.InstructMineError("a rule is to choose, and none is here: open an estimator.json")
    folder = Path(tempfile.mkdtemp())
    (folder / "estimator.json").write_bytes(Path(path).read_bytes())
    rule = him.LossEstimator.from_pretrained(str(folder))
    chosen = him.Selector(rule).select(pool, size=size)
    return np.sort(chosen.indices), html.escape(paragraph(rule, chosen.leverage))


def kept_against_pool(pool: Dataset, kept: Dataset) -> Any:
    """How MTLD and length of the chosen rows are distributed."""
    return histogram({f"{name} of the chosen rows": kept[name][:] for name in ("mtld", "output_characters")})


def build() -> gradio.Blocks:
    """The page."""
    with gradio.Blocks(title="hf-instructmine") as page:
        gradio.Markdown(
            "# Which of these instruction examples should I train on?\n"
            "[hf-instructmine](https://github.com/hf-instructmine/hf-instructmine) learns it from many small "
            "finetunes, and says whether its choice beats a random one. Here you can look at what a choice takes from "
            "a small pool."
        )
        with gradio.Row():
            file = gradio.File(
                label=f"Pool: {', '.join(FILES)} (the sample pool without)", file_types=FILES, height=120
            )
            rule = gradio.File(label="Rule: estimator.json", file_types=[".json"], height=120)
        with gradio.Row():
            way = gradio.Radio([*STRATEGIES, RULE], value=next(iter(STRATEGIES)), label="Choose by")
            size = gradio.Slider(1, MAX_ROWS, value=20, step=1, label="Rows to keep")
            seed = gradio.Number(0, precision=0, minimum=0, label="Seed of the random choice")
        button = gradio.Button("Select", variant="primary")
        worth = gradio.Markdown()
        result = gradio.File(label="The chosen rows", interactive=False)
        table = gradio.Dataframe(
            headers=["prompt", "response"], datatype="str", interactive=False, wrap=True, max_chars=300, label="Rows",
            column_widths=["35%", "65%"],
        )  # fmt: skip
        plot = gradio.Plot(show_label=False)
        button.click(in_one_line(select), [file, way, rule, size, seed], [worth, plot, table, result])
    return page


if __name__ == "__main__":
    disable_progress_bars()
    build().launch(**settings())
