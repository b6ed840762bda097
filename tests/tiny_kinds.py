"""One tiny random model of each of many kinds in transformers, each with a fixed, small configuration."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


SIZE = 330
_COMMON = {
    "vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {"num_key_value_heads": 2}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2, "num_local_experts": 4}
# What remembers a text by states that are no keys and values, in some layers or in all.
RECURRENT = {
    "bamba": {
        **_GROUPED, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8,
        "attn_layer_indices": [1],
    },
    "jamba": {  # without an attention layer: the first would be the sixth
        **_GROUPED, "num_experts": 2, "attn_layer_period": 8, "attn_layer_offset": 5, "mamba_d_state": 8,
        "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "lfm2": {**_GROUPED, "layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": {
        "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 16, "num_attention_heads": None,
    },
    "qwen3_next": {  # without an attention layer: the first would be the fourth
        **_GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "recurrent_gemma": {**_GROUPED, "lru_width": 32, "attention_window_size": 8},
    "rwkv": {},
    "xlstm": {
        "hidden_size": 64, "embedding_dim": 64, "num_heads": 4, "num_blocks": 2, "intermediate_size": None,
        "max_position_embeddings": None, "num_attention_heads": None,
    },
}  # fmt: skip
# What reads from left to right.
CAUSAL = {
    **RECURRENT,
    "bloom": {},
    "cohere": _GROUPED,
    "cohere2": {**_GROUPED, "sliding_window": 6},
    "deepseek_v3": {
        "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
        "v_head_dim": 8, "head_dim": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    },
    "falcon": {},
    "gemma": {**_GROUPED, "head_dim": 8},
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 6},
    "gemma3_text": {**_GROUPED, "head_dim": 8, "sliding_window": 6},
    "gpt2": {},
    "gpt_neox": {},
    "gpt_oss": {**_EXPERTS, "head_dim": 8, "sliding_window": 6},
    "granite": _GROUPED,
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 6},
    "mixtral": _EXPERTS,
    "modernbert-decoder": {},
    "mpt": {"max_seq_len": 128},
    "olmo2": _GROUPED,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
    "phi3": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 8},
    "qwen3_moe": {**_EXPERTS, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16},
    "smollm3": _GROUPED,
    "stablelm": _GROUPED,
    "starcoder2": _GROUPED,
}  # fmt: skip
# What sees the whole text, and loads as a language model all the same.
SEES_ALL = {
    "bert": {},
    "bert-generation": {},
    "big_bird": {"attention_type": "original_full"},
    "camembert": {},
    "data2vec-text": {},
    "electra": {"embedding_size": 32},
    "ernie": {},
    "megatron-bert": {},
    "rembert": {},
    "roberta": {},
    "roberta-prelayernorm": {},
    "roformer": {"embedding_size": 32},
    "xlm": {"n_words": SIZE, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xlnet": {"d_head": 8, "d_inner": 48, "max_position_embeddings": None},
}


def tiny_kind(kind: str, seed: int = 0, **settings) -> PreTrainedModel:
    """A random model of that kind, with the weights that transformers gives a fresh one."""
    torch.manual_seed(seed)
    settings = {**_COMMON, **{**CAUSAL, **SEES_ALL}.get(kind, {}), **settings}
    config = AutoConfig.for_model(kind, **{name: value for name, value in settings.items() if value is not None})
    return AutoModelForCausalLM.from_config(config).eval()


def larger(model: PreTrainedModel, by: float = 5.0) -> PreTrainedModel:
    """The model with larger weights, under which a wrong position or a missing token changes a value a great deal."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(by)
    return model
