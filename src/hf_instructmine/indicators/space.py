"""The page of a measurement, as a Space on the Hub shows it: rows in; scores, their mean and a histogram out."""

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.conversation import read_conversations
from ..data.inputs import load_pool
from ..errors import InstructMineError, one_line
from ..outputs.markdown import count
from ..outputs.plots import BLUE, GREY, canvas


if TYPE_CHECKING:
    from datasets import Dataset
    from gradio import Blocks
    from matplotlib.figure import Figure

# A page is for a look: whoever has more rows has a machine for them.
MAX_ROWS = 1000
MAX_FILE = "20mb"
FILES = [".jsonl", ".json", ".csv", ".tsv", ".parquet"]
# Prompt and response: an answer, one of another question, one that repeats itself, and none.
EXAMPLES = [
    ("What does a barometer measure?", "It measures the pressure of the air, by which one can foretell the weather."),
    ("What does a barometer measure?", "Bananas are rich in potassium."),
    ("Write a line of a poem.", "the cat saw the dog and the dog saw the cat and the cat saw the dog"),
    ("Say nothing.", ""),
]
_SHOWN = 160  # characters of a cell; the whole text is scored


def metric_space(folder: str | Path, examples: Sequence[tuple[str, str]], **arguments: Any) -> "Blocks":
    """Builds the page of a measurement.

    Args:
        folder (`str` or `Path`): Of the measurement: `<its name>.py`, and `README.md`, its card.
        examples (`Sequence[tuple[str, str]]`): Prompt and response of each row that the page shows at first.
        **arguments: Of `evaluate.load`, such as `model`. Visitors cannot change them.

    Returns:
        `gradio.Blocks`: To be started by `launch(**settings())`.

    Raises:
        [`InstructMineError`]: Where Gradio is not installed.
    """
    import evaluate

    gradio, folder = import_gradio(), Path(folder)
    module = evaluate.load(str(folder / f"{folder.name}.py"), **arguments)
    needs_prompts = "prompts" in module.features
    headers = ["prompt", "response"] if needs_prompts else ["response"]
    title, purpose, card = _card(folder / "README.md")

    def opened(path: str | None) -> list[list[str]]:
        rows, left_out = ([], []) if path is None else read_rows(path)
        if left_out:
            gradio.Warning(
                f"{count(len(left_out), 'row')} cannot be read and are left out: {html.escape(left_out[0])}"
            )
        return [list(row) if needs_prompts else [row[1]] for row in rows]

    def scored(cells: Any) -> tuple[str, Any, "Figure"]:
        rows = [[str(cell or "") for cell in row] for row in cells]
        rows = [row for row in rows if any(row)]
        if not rows:
            raise InstructMineError("there is no row to score: type one, or open a file")
        if len(rows) > MAX_ROWS:
            raise InstructMineError(f"{len(rows):,} rows are more than the {MAX_ROWS:,} that this page scores")
        given = {"prompts": [row[0] for row in rows]} if needs_prompts else {}
        results = module.compute(predictions=[row[-1] for row in rows], **given)
        columns = {name: results[name] for name in results if f"mean_{name}" in results}
        values = [[f"{column[k]:.4g}" for column in columns.values()] for k in range(len(rows))]
        # Scores first: on a phone the rest is off the screen.
        table = {"headers": [*columns, *headers], "data": [[*value, *row] for row, value in zip(rows, values)]}
        return told(columns), table, histogram(columns)

    with gradio.Blocks(title=title) as page:
        gradio.Markdown(f"# {title}\n{purpose}")
        with gradio.Accordion("What it measures, its range and its limits", open=False):
            gradio.Markdown(card)
        file = gradio.File(label=f"Rows: {', '.join(FILES)}", file_types=FILES, height=120)
        shown = [list(row) if needs_prompts else [row[1]] for row in examples]
        cells = gradio.Dataframe(
            shown, headers=headers, datatype="str", type="array", interactive=True, wrap=True, max_chars=_SHOWN,
            label="Rows to score: change them, or open a file",
        )  # fmt: skip
        button = gradio.Button("Score", variant="primary")
        summary = gradio.Markdown()
        plot = gradio.Plot(show_label=False)
        table = gradio.Dataframe(datatype="str", interactive=False, wrap=True, max_chars=_SHOWN, label="Scores")
        file.upload(in_one_line(opened), file, cells)
        button.click(in_one_line(scored), cells, [summary, table, plot])
    return page


def import_gradio() -> Any:
    """Imports Gradio, which is an extra.

    Raises:
        [`InstructMineError`]: Where it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise InstructMineError("a page needs Gradio: run `pip install 'hf-instructmine[app]'`") from error
    return gradio


def settings() -> dict[str, Any]:
    """Arguments of a page's `launch`: no font of another host, files of at most 20 MB, and no look into the server."""
    theme = import_gradio().themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue"
    )
    return {"theme": theme, "max_file_size": MAX_FILE, "show_error": False, "footer_links": ["gradio"]}


def in_one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a mistake in what it is given told to the visitor as text."""

    def told_of(*given: Any) -> Any:
        try:
            return function(*given)
        except InstructMineError as error:
            # What a program could do about it, a page cannot.
            what = one_line(error).partition("; or say which is which")[0]
            raise import_gradio().Error(html.escape(what), print_exception=False) from error

    return told_of


def open_file(path: str) -> "Dataset":
    """The rows of a file; columns `prompt` and `response`, as a page's own tables name them, are read too.

    Raises:
        [`InstructMineError`]: Where the file, or its layout, cannot be read.
    """
    pool = load_pool([path])
    if {"prompt", "response"} <= {*pool.column_names} and "completion" not in pool.column_names:
        pool = pool.rename_column("response", "completion")
    read_conversations(pool[:1])
    return pool


def read_rows(path: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Prompt and response of each of the first 1,000 rows of a file, and of those that cannot be read, why.

    Raises:
        [`InstructMineError`]: As [`open_file`] does.
    """
    pool = open_file(path)
    conversations = read_conversations(pool.select(range(min(len(pool), MAX_ROWS)))[:])
    rows = [(c.prompt_text, c.response) for c in conversations if not c.problem]
    return rows, [f"row {k}: {c.problem}" for k, c in enumerate(conversations) if c.problem]


def told(columns: Mapping[str, Sequence[float]]) -> str:
    """The mean of each column, and how many rows have no score; Markdown without a word of the data."""
    lines = []
    for name, values in columns.items():
        known = np.asarray(values, float)[np.isfinite(values)]
        missing = len(values) - len(known)
        mean = f"mean {known.mean():.4g}, median {np.median(known):.4g}" if len(known) else "no score"
        left = f"; {count(missing, 'row')} could not be scored" if missing else ""
        lines.append(f"- **{name}**: {mean} of {count(len(known), 'row')}{left}")
    return "\n".join(lines)


def histogram(columns: Mapping[str, Sequence[float]]) -> "Figure":
    """How the scores of each column are distributed; a dashed line is their median."""
    figure, axes = canvas(2.2 * len(columns), rows=len(columns))
    for ax, (name, values) in zip(axes[:, 0], columns.items()):
        known = np.asarray(values, float)[np.isfinite(values)]
        if len(known):
            ax.hist(known, bins=min(30, max(5, len(known) // 4)), color=BLUE)
            ax.axvline(float(np.median(known)), color=GREY, linestyle="--")
        ax.set_xlabel(name)
        ax.set_ylabel("rows")
    return figure


def _card(path: Path) -> tuple[str, str, str]:
    """Title and description in a card's metadata, and the card from its first section on."""
    import yaml

    _, metadata, text = path.read_text(encoding="utf-8").split("---\n", 2)
    said = yaml.safe_load(metadata)
    return said["title"], said["description"], text[text.index("\n## ") :].strip()
