"""UniEval's scores against the arithmetic of its reference, on a random model of T5-small's size.

    python benchmarks/unieval_reference.py rows.jsonl [--rows 200]

The reference arithmetic: rows in file order, eight at a time, each batch padded to its longest text; logits of the
whole vocabulary and two softmaxes over them, for P(Yes) and for P(No). The scores mean nothing, as the weights are
random; that both ways find the same ones is what is checked, and their times are what is compared.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

from hf_instructmine import UniEval
from hf_instructmine.indicators.unieval import TEMPLATES


BATCH_SIZE = 8
MAX_LENGTH = 1024


def compare(rows: Sequence[tuple[str, str]], dtype: str = "float32", repeats: int = 1) -> dict[str, float]:
    """Scores (instruction, response) pairs in three dimensions both ways, in turns.

    Args:
        rows (`Sequence[tuple[str, str]]`): Instructions and responses, in the file's order.
        dtype (`str`, defaults to `"float32"`): Precision of the model in both.
        repeats (`int`, defaults to 1): The best time of so many counts.

    Returns:
        `dict[str, float]`: `rows`, `reference_seconds`, `seconds`, `ratio` of the two, and `max_difference`, the
        largest absolute difference between two scores.
    """
    tokenizer, model = random_t5_small(rows, dtype)
    ours, reference = [], []
    for _ in range(repeats):
        reference.append(_timed(lambda: reference_scores(model, tokenizer, rows)))
        ours.append(_timed(lambda: our_scores(model, tokenizer, rows)))
    seconds, reference_seconds = min(s for s, _ in ours), min(s for s, _ in reference)
    return {
        "rows": len(rows),
        "reference_seconds": reference_seconds,
        "seconds": seconds,
        "ratio": reference_seconds / seconds,
        "max_difference": float(np.abs(ours[0][1] - reference[0][1]).max()),
    }


def our_scores(model: T5ForConditionalGeneration, tokenizer: T5Tokenizer, rows: Sequence) -> np.ndarray:
    batch = {"prompt": [instruction for instruction, _ in rows], "completion": [response for _, response in rows]}
    return np.array(list(UniEval(model, tokenizer, max_length=MAX_LENGTH)(batch).values()))


def reference_scores(model: T5ForConditionalGeneration, tokenizer: T5Tokenizer, rows: Sequence) -> np.ndarray:
    yes, no = (tokenizer(word)["input_ids"][0] for word in ("Yes", "No"))
    scores: list[list[float]] = []
    for template in TEMPLATES.values():
        texts = [template.format(response, f"{instruction}\n\n") for instruction, response in rows]
        scores.append([])
        for start in range(0, len(texts), BATCH_SIZE):
            inputs = tokenizer(
                texts[start : start + BATCH_SIZE],
                max_length=MAX_LENGTH, truncation=True, padding=True, return_tensors="pt",
            )  # fmt: skip
            target = torch.full((len(inputs["input_ids"]), 1), no)
            with torch.no_grad():
                logits = model(**inputs, labels=target).logits.view(-1, model.config.vocab_size)
            positive, negative = logits.softmax(dim=1)[:, yes], logits.softmax(dim=1)[:, no]
            scores[-1] += (positive / (positive + negative)).tolist()
    return np.array(scores)


def random_t5_small(rows: Sequence[tuple[str, str]], dtype: str) -> tuple[T5Tokenizer, T5ForConditionalGeneration]:
    """A T5 of T5-small's size with random weights, and a Unigram tokenizer of 8,000 pieces trained on the rows."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=8000, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator([*(text for row in rows for text in row), *TEMPLATES.values()], trainer)
    vocab = [(piece, value) for piece, value in json.loads(backend.to_str())["model"]["vocab"]]
    words = [(word, -12.0) for word in ("▁Yes", "▁No") if word not in dict(vocab)]
    tokenizer = T5Tokenizer(vocab=[*vocab, *words], extra_ids=0)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32_128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, decoder_start_token_id=0
    )
    return tokenizer, T5ForConditionalGeneration(config).to(getattr(torch, dtype)).eval()


def _timed(run: Any) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    scores = run()
    return time.perf_counter() - start, scores


def _pair(row: dict[str, Any]) -> tuple[str, str]:
    return "\n\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="JSON lines with instruction, input and output")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    with open(arguments.file, encoding="utf-8") as lines:
        pairs = [_pair(json.loads(line)) for line, _ in zip(lines, range(arguments.rows))]
    torch.set_num_threads(1)
    for name, value in compare([pair for pair in pairs if pair[1].strip()], arguments.dtype).items():
        print(f"{name:18} {value:.4g}")
