"""What tests of finetunes share: a tiny base model, and a recipe in a file."""

import pytest
import yaml
from tiny_finetunes import SETTINGS, tiny_base, training_rows, write_jsonl
from tiny_models import ROWS


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def recipe_file(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    settings = {
        **SETTINGS,
        "model_name_or_path": base,
        "train": [write_jsonl(folder / "rows.jsonl", training_rows())],
        "eval_sets": [f"held_out={write_jsonl(folder / 'held_out.jsonl', training_rows(ROWS[::-1]))}"],
        "output_dir": str(folder / "out"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
