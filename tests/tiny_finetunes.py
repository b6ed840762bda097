"""A finetune of a tiny random model that takes a second, and what tests of it share."""

import json
from pathlib import Path

from tiny_models import CHATML, ROWS, byte_tokenizer, causal_model, save

from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.base_model import load_base
from hf_instructmine.finetuning.evaluation import encode_set
from hf_instructmine.finetuning.finetune import finetune
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.finetuning.training_data import read_training_data


SETTINGS = {
    "use_cpu": True, "bf16": False, "activation_checkpointing": False, "report_to": "none", "disable_tqdm": True,
    "learning_rate": 5e-3, "lr_scheduler_type": "constant", "per_device_train_batch_size": 4, "num_train_epochs": 2,
    "logging_steps": 1, "max_length": 256, "eval_max_length": 256,
}  # fmt: skip
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"], "lora_dropout": 0.1}
HELD_OUT = {"prompt": ["Say no.", "Name a pet."], "completion": ["No", "A dog and a cat."]}


def tiny_base(folder: Path, kind: str = "llama") -> str:
    """Saves a random model, `"llama"` or `"qwen3"`, that ends its turns with `<|im_end|>`; returns its folder."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer(eos="<|im_end|>", pad="<|endoftext|>", chat_template=CHATML)
    if kind != "qwen3":
        return save(folder, causal_model(kind, tokenizer), tokenizer)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    return save(folder, Qwen3ForCausalLM(config), tokenizer)


def training_rows(rows=ROWS):
    """A dataset of prompts and completions; one that is a dataset already is taken as it is."""
    from datasets import Dataset

    if isinstance(rows, Dataset):
        return rows
    return Dataset.from_dict({"prompt": [p for p, _ in rows], "completion": [r for _, r in rows]})


def finetuned(base: str, folder: Path, rows=ROWS, eval_sets=HELD_OUT, **settings):
    """Finetunes once and returns the result and the trainer."""
    from datasets import Dataset

    recipe = Recipe({**SETTINGS, "model_name_or_path": base, "output_dir": str(folder), **settings})
    arguments = recipe.arguments()
    loaded, length = load_base(arguments), arguments.own.eval_max_length
    held_out = encode_set(EvaluationSet.read("held_out", Dataset.from_dict(eval_sets)), loaded, length)
    conversations = read_training_data(training_rows(rows))
    return finetune(loaded, conversations, {"held_out": held_out}, arguments)


def trajectory(trainer) -> list[float]:
    """The loss of each step."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def write_jsonl(path: Path, rows) -> str:
    """Writes a dataset's rows, and returns the file's name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
