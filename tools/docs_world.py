"""The folder and the Hub that commands of the docs find: rows of the bundled pool, real small models, a stub.

Names of the docs stand for what is here. all-MiniLM-L6-v2 is the real one, out of its package; so is
SmolLM2-135M-Instruct for the Python of README. Elsewhere it is a model of its kind and with its tokenizer, of
eight narrow layers with random weights, which trains in a second. The reward model is such a one everywhere. Their
scores mean nothing, and are the same in every run: weights are drawn by a seed.
"""

import gzip
import hashlib
import json
import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import hf_instructmine as him


sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hub_stub import HubStub, Repo


ROWS = 64  # of the pool: those with the shortest responses
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SOURCES = ("web", "books", "code")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}


def write_inputs(folder: Path) -> None:
    """Writes the files that the docs name."""
    rows = sorted(him.load_sample_pool(), key=lambda row: len(row["output"]))[:ROWS]
    rows = [{**row, "source": source} for row, source in zip(rows, cycle(SOURCES))]
    held = sorted(him.load_sample_evaluation(), key=lambda row: len(row["output"]))
    bench = [
        {"question_id": n, "category": "writing", "turns": [_prompt(row)], "reference": [row["output"]]}
        for n, row in enumerate(held[:20])
    ]
    files = {
        "pool.jsonl": rows,
        "chats.jsonl": [_chat(row) for row in rows],
        "rows.jsonl": rows[:8],
        "eval.jsonl": held[:20],
        "other.jsonl": held[20:40],
        "self_instruct.jsonl": held[20:40],
        "mt_bench.jsonl": bench,
        "prompts.jsonl": bench[:4],
        "gpt-answers.jsonl": [{"row": n, "turn": 0, "answer": row["output"]} for n, row in enumerate(held[:20])],
        "named.jsonl": [{"question": _prompt(row), "best_answer": row["output"], "trace": "Think."} for row in rows],
        "dialogues.jsonl": [{"turns": _turns(row, "pupil", "teacher")} for row in rows],
    }
    for name, content in files.items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / name).write_text(text, encoding="utf-8")
        if name == "pool.jsonl":
            with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8") as packed:
                packed.write(text)


def _prompt(row: Mapping[str, str]) -> str:
    return "\n\n".join(filter(None, (row["instruction"], row["input"])))


def _turns(row: Mapping[str, str], user: str, assistant: str) -> list[dict[str, str]]:
    return [{"role": user, "content": _prompt(row)}, {"role": assistant, "content": row["output"]}]


def _chat(row: Mapping[str, str]) -> dict:
    return {"messages": _turns(row, "user", "assistant"), "source": row["source"]}


def fill_hub(hub: HubStub, real: Path, quick: Path, inputs: Path) -> None:
    """Puts models into two caches as huggingface_hub lays them out, and on the stub their names and the data sets.

    The stub answers which revision and which files there are; the files themselves are found in the caches.
    """
    smollm2 = Path(him.smollm2_135m())
    others = {
        "sentence-transformers/all-MiniLM-L6-v2": Path(him.minilm_l6()),
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": _tiny_reward_model(quick / "tiny-reward"),
    }
    _fill_cache(hub, real, {SMOLLM2: smollm2, **others})
    _fill_cache(hub, quick, {SMOLLM2: _tiny_smollm2(smollm2, quick / "tiny-smollm2"), **others})
    pool, held_out = (inputs / "pool.jsonl").read_bytes(), (inputs / "other.jsonl").read_bytes()
    _put_dataset(hub, "me/alpaca", {"train.jsonl": pool, "test.jsonl": held_out})
    configs = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"
    _put_dataset(hub, "openai/gsm8k", {"README.md": configs, "test.jsonl": held_out})


def _fill_cache(hub: HubStub, cache: Path, models: Mapping[str, Path]) -> None:
    for name, folder in models.items():
        revision = hashlib.sha1(name.encode()).hexdigest()
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        held = cache / "hub" / f"models--{name.replace('/', '--')}"
        (held / "refs").mkdir(parents=True, exist_ok=True)
        (held / "refs" / "main").write_text(revision, encoding="utf-8")
        for file in files:
            place = held / "snapshots" / revision / file
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_symlink():
                place.symlink_to(folder / file)
        hub.repos["model", name] = Repo(commits=[(revision, "", dict.fromkeys(files, b""))])


def put_model(hub: HubStub, name: str, folder: Path) -> None:
    """Puts a folder on the stub as a model repository: a rule."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    hub.repos["model", name] = Repo(commits=[(hashlib.sha1(name.encode()).hexdigest(), "", files)])


def _put_dataset(hub: HubStub, name: str, files: dict[str, bytes]) -> None:
    hub.repos["dataset", name] = Repo(commits=[(hashlib.sha1(name.encode()).hexdigest(), "", files)])


def _tiny_reward_model(folder: Path) -> Path:
    """A Qwen3 with random weights that gives one number, as Skywork's reward models do."""
    from tiny_models import CHATML, byte_tokenizer
    from transformers import Qwen3Config, Qwen3ForSequenceClassification, set_seed

    if not (folder / "config.json").is_file():
        set_seed(0)
        tokenizer = byte_tokenizer(pad="<|endoftext|>", eos="<|im_end|>", chat_template=CHATML)
        config = Qwen3Config(
            **SMALL, num_hidden_layers=2, head_dim=16, vocab_size=len(tokenizer), num_labels=1,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        Qwen3ForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _tiny_smollm2(real: Path, folder: Path) -> Path:
    """A Llama with random weights, SmolLM2's tokenizer, and two layers more than the recipes train."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    if not (folder / "config.json").is_file():
        set_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(real)
        config = LlamaConfig(**SMALL, num_hidden_layers=8, vocab_size=len(tokenizer), tie_word_embeddings=True)
        model = LlamaForCausalLM(config)
        _know_frequencies(model, tokenizer)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _know_frequencies(model: Any, tokenizer: Any) -> None:
    """Lets a model give each token about its share of the bundled pool, whatever was read before.

    Its loss is well below that of guessing then, as a real model's is: near it, a finetune that teaches nothing would
    now and then be called diverged. Of every hidden state the first number is the largest by far, and the norm makes
    it the root of their number; times a token's own it is the logarithm of the token's share, and a constant.
    """
    import numpy as np
    import torch

    texts = [row["output"] for row in him.load_sample_pool()]
    ids = np.concatenate([np.array(ids, int) for ids in tokenizer(texts)["input_ids"]])
    share = (np.bincount(ids, minlength=len(tokenizer)) + 0.05) / len(ids)
    own = (np.log(share) - np.log(share.min()) + 3) / SMALL["hidden_size"] ** 0.5
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = torch.tensor(own, dtype=torch.float32)
