"""How far a cached trunk's rounding to bfloat16 moves losses, of dense models and of mixtures of experts.

    python benchmarks/trunk_rounding.py [--texts 100]

Random models of 8 layers, of which 6 are frozen, over random texts. The losses mean nothing; how far they move is what
is looked at. A router sends a token to one expert or another: rounding can change which.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hf_instructmine.finetuning import trunk
from hf_instructmine.finetuning.finetune import evaluating
from hf_instructmine.models.engine import response_nll
from hf_instructmine.models.loading import LoadedModel


VOCABULARY = 330
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KINDS = {
    "llama": {},
    "qwen3": {"head_dim": 32},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 16, "num_experts_per_tok": 2, "head_dim": 32, "moe_intermediate_size": 64},
    "deepseek_v3": {
        "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "head_dim": 4, "n_routed_experts": 16, "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1,
    },
    "qwen3_next": {
        "head_dim": 32, "num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
}  # fmt: skip


def random_model(kind: str) -> PreTrainedModel:
    """Weights are three times a fresh model's, so that its layers matter."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**COMMON, **KINDS[kind]})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def measure(kind: str, sequences: list[list[int]], bf16: bool) -> str:
    """One line: the mean loss, how far it moves, and how far single tokens do."""
    model = random_model(kind)
    loaded, starts = LoadedModel(model, None, 1000), [1] * len(sequences)
    with tempfile.TemporaryDirectory() as folder, evaluating(model, bf16):
        vectors = trunk.compute_trunk(loaded, 2, sequences, Path(folder, "trunk"), bf16)
        whole = np.concatenate(response_nll(loaded, sequences, starts))
        trunk._cut(model, 2)
        cut = np.concatenate(response_nll(loaded, sequences, starts, vectors))
    moved = np.abs(cut - whole)
    return (
        f"{kind:12} {'bf16' if bf16 else 'fp32'}: loss {whole.mean():.4f} moved by {cut.mean() - whole.mean():+.5f}; "
        f"tokens by {moved.mean():.5f} on average, {moved.max():.3f} at most ({len(whole)} tokens)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    sequences = [rng.integers(VOCABULARY, size=int(size)).tolist() for size in rng.integers(20, 60, size=args.texts)]
    for kind in KINDS:
        for bf16 in (False, True):
            print(measure(kind, sequences, bf16))


if __name__ == "__main__":
    main()
