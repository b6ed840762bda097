"""A sweep that takes seconds: a random Llama of 4 layers, 24 rows, subsets of 6."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from tiny_models import CHATML, ROWS, byte_tokenizer, save
from transformers import LlamaConfig, LlamaForCausalLM


RECIPE = {
    "dtype": "float32",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "max_length": 64,
    "eval_max_length": 64,
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
LAST_LAYERS = {"train_last_layers": 2}
LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.1, "learning_rate": 1e-2}
# What differs between two runs of the same.
TIMINGS = ("seconds", "seconds_training", "seconds_evaluating", "peak_memory")


def save_model(folder: Path, num_layers: int = 4, **config) -> str:
    """The folder of a random Llama that knows a chat template."""
    import torch

    torch.manual_seed(0)
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    llama = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=num_layers,
        num_attention_heads=4, num_key_value_heads=2, **config,
    )  # fmt: skip
    return save(folder, LlamaForCausalLM(llama), tokenizer)


def pool() -> Dataset:
    """Rows of two sources, each with its number as an indicator."""
    rows = [(f"{prompt} ({i})", f"{response} {i}") for i, (prompt, response) in enumerate((ROWS * 3)[:24])]
    prompts, completions = zip(*rows)
    return Dataset.from_dict(
        {
            "prompt": prompts,
            "completion": completions,
            "source": ["a", "b"] * 12,
            "reward": np.arange(24, dtype=float).tolist(),
        }
    )


def evaluation_sets() -> dict[str, Dataset]:
    """One set of single turns, and one of conversations."""
    turns = [
        [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello, what can I do for you?"},
            {"role": "user", "content": f"Count to {n}."},
            {"role": "assistant", "content": " ".join(map(str, range(1, n + 1)))},
        ]
        for n in (2, 3, 5)
    ]
    single = Dataset.from_dict({"prompt": [p for p, _ in ROWS[:6]], "completion": [c for _, c in ROWS[:6]]})
    return {"single": single, "multi": Dataset.from_dict({"messages": turns})}


def mixtures(num_runs: int = 3, replicates: int = 1, seed: int = 0) -> Dataset:
    """Random subsets of 6 rows; the first `replicates` stand twice, with other seeds."""
    rng = np.random.default_rng(seed)
    subsets = [sorted(rng.choice(24, 6, replace=False).tolist()) for _ in range(num_runs)]
    numbers = [*range(num_runs), *range(replicates)]
    return Dataset.from_dict(
        {
            "mixture_id": [f"mixture-{number:03d}" for number in numbers],
            "seed": [seed + position for position in range(len(numbers))],
            "indices": [subsets[number] for number in numbers],
            "reward": [float(np.mean(subsets[number])) for number in numbers],
        }
    )


def comparable(runs: Dataset, *also: str) -> list[dict]:
    """The runs without what differs between two that are the same; `versions` name a commit, which may change."""
    return list(runs.remove_columns([*TIMINGS, "versions", *also]))
