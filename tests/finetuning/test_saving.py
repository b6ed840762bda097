"""What a finetune leaves behind: a model that can be loaded, with a card; or no model."""

import errno
import json
from pathlib import Path

import pytest
import yaml
from tiny_finetunes import LORA, SETTINGS, training_rows, write_jsonl
from tiny_models import ROWS

from hf_instructmine.finetuning import saving
from hf_instructmine.finetuning.__main__ import main
from hf_instructmine.finetuning.evaluation import encode_set, evaluation_loss
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.finetuning.saving import Provenance, build_model_card, model_bytes
from hf_instructmine.models.loading import LoadedModel


ADAPTER = ["--use_peft", "--lora_r", "4", "--lora_target_modules", "all-linear"]


def loss_of(folder: Path) -> float:
    """The loss of a kept model on the recipe's evaluation set, loaded as anyone would."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_instructmine.data.evaluation_sets import EvaluationSet

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    loaded = LoadedModel(model.eval(), tokenizer, 512)
    held_out = EvaluationSet.read("held_out", Dataset.from_list(list(training_rows(ROWS[::-1]))))
    return evaluation_loss(loaded, encode_set(held_out, loaded, 256)).loss


@pytest.mark.parametrize("options", [[], ADAPTER], ids=["whole", "adapter"])
def test_the_kept_model_gives_the_recorded_loss_again(recipe_file, tmp_path, options):
    out, record = tmp_path / "out", tmp_path / "record.json"
    assert main(["--config", str(recipe_file), "--output-dir", str(out), "--record", str(record), *options]) == 0
    result = json.loads(record.read_text())
    assert loss_of(out) == pytest.approx(result["losses"]["held_out"], rel=1e-6)
    assert not list(out.rglob("*.bin")) and not list(out.rglob("optimizer*"))
    card = (out / "README.md").read_text(encoding="utf-8")
    before, after = result["base_losses"]["held_out"], result["losses"]["held_out"]
    assert f"| held\\_out | {before:.4f} | {after:.4f} |" in card
    assert "fine-tuned version of" not in card and "rows: 10" in card and "from: rows.jsonl" in card
    assert f"response tokens trained on: {result['train_tokens']}" in card
    assert str(recipe_file.parent) not in card and str(tmp_path) not in card


def test_nothing_is_kept_where_no_folder_is_named_or_a_recipe_says_so(recipe_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load(recipe_file.read_text())
    unnamed = {name: value for name, value in settings.items() if name != "output_dir"}
    for number, recipe in enumerate((unnamed, {**settings, "output_dir": "here", "model_dir": None})):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["--config", f"{number}.yaml"]) == 0
        assert "The model is not kept: name a folder for it with --output-dir" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_folder_that_holds_a_model_is_refused_before_training_unless_that_is_gone_on_with(
    recipe_file, tmp_path, capsys
):
    out = tmp_path / "out"
    go = ["--config", str(recipe_file), "--output-dir", str(out), "--save_strategy", "epoch"]
    assert main([*go, "--num_train_epochs", "1"]) == 0
    first = (out / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(go) == 1
    assert capsys.readouterr().err == (
        f"finetuning: output_dir: '{out}' holds a model already (config.json): name another folder, or remove it\n"
    )
    assert main([*go, "--resume_from_checkpoint", "true"]) == 0
    assert (out / "model.safetensors").read_bytes() != first
    (tmp_path / "file").write_text("")
    assert main(["--config", str(recipe_file), "--output-dir", str(tmp_path / "file")]) == 1
    assert "file' is a file: name a folder for the model" in capsys.readouterr().err


def test_a_kill_while_the_model_is_written_leaves_no_model(recipe_file, tmp_path, monkeypatch):
    def killed(made):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "build_model_card", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["--config", str(recipe_file), "--output-dir", str(tmp_path)])
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "model.safetensors").exists()
    monkeypatch.undo()
    assert main(["--config", str(recipe_file), "--output-dir", str(tmp_path)]) == 0
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_no_secret_and_no_markup_of_anyone_gets_into_the_card():
    hostile = "x|y<script>alert(1)</script>{{ 7 * 7 }}\n---\nlicense: mit"
    result = {
        "seed": 0, "steps": 1, "epochs": 1.0, "train_tokens": 5, "asked_tokens": None, "truncated": 0, "processes": 1,
        "train_loss": None, "subset_tokens": 5, "losses": {"mine": 1.0}, "base_losses": {},
    }  # fmt: skip
    recipe = {"hub_token": "hf_secret", "chat_template_path": "/home/me/secret/plain.jinja", "eos_token": hostile}
    made = Provenance({"model": hostile, "weights": "xxh64:0"}, {"rows": 1, "from": hostile}, recipe, result)
    card = build_model_card(made)
    assert "hf_secret" not in card.content and "/home/me" not in card.content and "plain.jinja" in card.content
    assert "<script>" not in card.content and "{{" not in card.content and card.data.license is None
    assert "| mine | – | 1.0000 |" in card.content and card.data.base_model is None
    on_hub = Provenance({"model": "some/model", "revision": "abc"}, {"rows": 1}, {"use_peft": True}, result)
    assert build_model_card(on_hub).data.base_model == "some/model"


@pytest.mark.parametrize("settings", [{}, LORA, {"dtype": "bfloat16"}], ids=["whole", "adapter", "bfloat16"])
def test_the_size_of_a_model_is_known_before_it_is_trained(base, tmp_path, recipe_file, settings):
    arguments = Recipe({**SETTINGS, "model_name_or_path": base, **settings}).arguments()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**yaml.safe_load(recipe_file.read_text()), **settings}))
    assert main(["--config", str(tmp_path / "recipe.yaml"), "--output-dir", str(tmp_path / "out")]) == 0
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    assert model_bytes(arguments) < weights.stat().st_size < model_bytes(arguments) + 4000  # the tensors' names


def test_a_full_disk_is_one_line(recipe_file, tmp_path, monkeypatch, capsys):
    from safetensors import SafetensorError
    from trl import SFTTrainer

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(SFTTrainer, "save_model", full)
    assert main(["--config", str(recipe_file), "--output-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(
        "No space left on device; what is finished is kept: mend it and start again\n"
    )
    with pytest.raises(OSError) as raised, saving._disk_errors():
        full()
    assert raised.value.errno == errno.ENOSPC


def test_a_budget_of_tokens_says_before_how_fine_it_is_and_after_what_it_came_to(
    recipe_file, tmp_path, capsys, caplog
):
    record = tmp_path / "record.json"
    budget = ["--budget", "tokens", "--train_tokens", "500", "--record", str(record)]
    assert main(["--config", str(recipe_file), *budget, "--output-dir", str(tmp_path / "out")]) == 0
    result = json.loads(record.read_text())
    step = result["subset_tokens"] * 4 / 10  # rows
    assert any(
        f"500 response tokens are asked for, and an optimiser step has about {step:.0f}" in r.message
        for r in caplog.records
    )
    assert f"{result['train_tokens']} response tokens of 500 asked for" in capsys.readouterr().out
    assert result["asked_tokens"] == 500 and abs(result["train_tokens"] - 500) <= step
    assert "response tokens asked for: 500" in (tmp_path / "out" / "README.md").read_text()


def test_rows_whose_file_name_is_hostile_are_named_harmlessly(recipe_file, tmp_path):
    rows = write_jsonl(tmp_path / "a|b.jsonl", training_rows())
    assert main(["--config", str(recipe_file), "--train", rows, "--output-dir", str(tmp_path / "out")]) == 0
    assert "from: a\\|b.jsonl" in (tmp_path / "out" / "README.md").read_text()
