"""Pushing a curated dataset that an earlier version saved, which kept too little to reopen it."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset

from ..errors import InstructMineError
from ..estimator.file import FILE_NAME
from ..outputs.markdown import PARQUET_FILE, count
from ..outputs.publishing import CARD, Content, Pushed, publish
from .card import FIGURE_FILE


# All that earlier versions wrote besides rows and card; figures of sections are those that the card shows.
FILES = (FILE_NAME, "indicators.json", FIGURE_FILE)
FOLDER = "path/to/this/folder"  # what their cards call the folder
_SHOWN = re.compile(r"!\[[^\]]*\]\((\w[\w.-]*\.png)\)")


def push_earlier(folder: str | Path, repo_id: str, **options: Any) -> Pushed:
    """Pushes the files of such a folder, with its own card made one of the repository.

    Args:
        folder (`str` or `Path`): Holds the rows as Parquet, and a card.
        repo_id (`str`): As [`~selection.curated.Selection.push_to_hub`] takes it.
        options: The other arguments of [`~outputs.publishing.publish`].

    Raises:
        [`InstructMineError`]: Where the folder has no card, and as `publish` does.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise InstructMineError(f"'{folder}' has no {CARD} to be made the repository's card: select again")
    card = (folder / CARD).read_text("utf-8", "replace")
    names = [name for name in dict.fromkeys([*FILES, *_SHOWN.findall(card)]) if (folder / name).is_file()]

    def write(stage: Path, full_id: str) -> None:
        for name in names:
            shutil.copyfile(folder / name, stage / name)
        text = card.replace(f'from_pretrained("{FOLDER}")', f'from_pretrained("{full_id}", repo_type="dataset")')
        (stage / CARD).write_text(text.replace(f'"{FOLDER}"', f'"{full_id}"'), "utf-8")

    with TemporaryDirectory() as cache:  # read piece by piece, whatever the size
        rows = Dataset.from_parquet(str(folder / PARQUET_FILE), cache_dir=cache)
        message = f"Add {count(len(rows), 'row')} chosen by hf-instructmine"
        return publish(Content("dataset", message, write, rows), repo_id, **options)
