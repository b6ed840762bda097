"""Tiny models with random weights, of the architectures that the indicators meet, and tokenizers of each kind.

Their scores mean nothing; that is enough to compare two ways of computing them. The weights are larger than a fresh
model's, so that a wrong position or a missing token changes a score a great deal.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "Give three tips for staying healthy. Eat a balanced diet, sleep well and move every day.",
    "What is the capital of France? The capital of France is Paris.",
    "Write a short story about a dog and the cat that it met in the street.",
    "question: Is this a natural, coherent or understandable response in the dialogue? response: dialogue history:",
]
ROWS = [
    ("Give three tips for staying healthy.", "Eat well, sleep well and move every day."),
    ("What is the capital of France?", "Paris."),
    ("Say yes.", "Yes"),
    ("Write a short story about a dog.", "A dog met a cat in the street. They looked at each other for a long time."),
    ("日本の首都はどこですか。", "東京です。"),
    ("ما هي عاصمة مصر؟", "القاهرة"),
    ("Reply with one picture.", "🙂👩‍👩‍👧"),
    ("What ends a turn?", "It is <|im_end|> or </s>, written {{ so }}, never\x00 mind."),
    ("<|im_start|>system\nSay nothing.<|im_end|>", "No."),
    ("Count.", "1 2 3 4 5 6 7 8 9 10 " * 6),
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|prompter|>", "<|assistant|>"]


def conversations_of(rows) -> dict[str, list[str]]:
    """A batch of (instruction, response) pairs, as `Dataset.map(batched=True)` passes it."""
    return {"prompt": [prompt for prompt, _ in rows], "completion": [response for _, response in rows]}


def byte_tokenizer(
    *, bos: bool = False, pad: str | None = None, eos: str = "<|endoftext|>", chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2's, Qwen's and Llama 3's; with `bos`, `<s>` is put before every text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [*SPECIAL, "<s>"] if bos else SPECIAL
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if bos:
        pair = [("<s>", backend.token_to_id("<s>"))]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=pair)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>" if bos else None, eos_token=eos, pad_token=pad,
        additional_special_tokens=[token for token in SPECIAL if token not in (eos, pad)],
    )  # fmt: skip
    tokenizer.chat_template = chat_template
    return tokenizer


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over words marked with ▁ that falls back to bytes, with `<s>` before every text, as Llama 2's."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False)
    )
    vocab, merges = dict(backend.get_vocab()), _merges(backend)
    for byte in special[3:]:
        vocab[byte] = len(vocab)
    backend.model = models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>")
    backend.add_special_tokens(special[:3])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=None
    )


def unigram_tokenizer() -> T5Tokenizer:
    """Unigram with T5's own class: `</s>` ends every text, and is a piece of the vocabulary like any other."""
    letters = sorted({c for text in CORPUS for c in text if not c.isspace()} | set("</>s|_{}0123456789"))
    words = sorted({f"▁{word}" for text in CORPUS for word in text.split()} | {"▁Yes", "▁No"})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(word, -4.0) for word in words] + [(letter, -6.0) for letter in letters if f"▁{letter}" != letter]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0)
    tokenizer._tokenizer.normalizer = normalizers.NFKC()  # as the character map of the published T5 does
    return tokenizer


def wordpiece_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """WordPiece, as BERT's; its chat template has to write `[CLS]` and `[SEP]` itself."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def causal_model(kind: str, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
    """A random language model: `"llama"` (grouped queries), `"gpt2"` (128 learned positions, tied) or `"qwen2"`."""
    size = len(tokenizer)
    if kind == "llama":
        return _random(LlamaForCausalLM(LlamaConfig(vocab_size=size, num_key_value_heads=2, **_SMALL)), seed)
    if kind == "qwen2":
        return _random(Qwen2ForCausalLM(Qwen2Config(vocab_size=size, num_key_value_heads=2, **_SMALL)), seed)
    return _random(GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=128, n_embd=32, n_layer=2, n_head=4)), seed)


def reward_classifier(
    kind: str, tokenizer: PreTrainedTokenizerBase, *, pad_token_id: int | None = None, num_labels: int = 1
) -> PreTrainedModel:
    """A random sequence classifier: `"llama"`, `"qwen2"` or `"bert"`."""
    config_class, model_class, extra = {
        "llama": (LlamaConfig, LlamaForSequenceClassification, {"num_key_value_heads": 2}),
        "qwen2": (Qwen2Config, Qwen2ForSequenceClassification, {"num_key_value_heads": 2}),
        "bert": (BertConfig, BertForSequenceClassification, {"max_position_embeddings": 256}),
    }[kind]
    config = config_class(
        vocab_size=len(tokenizer), num_labels=num_labels, pad_token_id=pad_token_id, **_SMALL, **extra
    )
    return _random(model_class(config))


def oasst_reward_model(tokenizer: PreTrainedTokenizerBase, pooling: str = "last") -> PreTrainedModel:
    """A random `gpt_neox_reward_model`."""
    from hf_instructmine.models.oasst_reward import GPTNeoXRewardModel, GPTNeoXRewardModelConfig

    config = GPTNeoXRewardModelConfig(
        vocab_size=len(tokenizer),
        pooling=pooling,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        **_SMALL,
    )
    return _random(GPTNeoXRewardModel(config))


def t5_model(tokenizer: PreTrainedTokenizerBase, *, tied: bool, d_model: int = 32) -> PreTrainedModel:
    """A random T5: tied as the first T5s (whose decoder output is scaled), or untied as T5 1.1 and Flan-T5."""
    config = T5Config(
        vocab_size=len(tokenizer), d_model=d_model, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        tie_word_embeddings=tied, feed_forward_proj="relu" if tied else "gated-gelu",
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    model = _random(T5ForConditionalGeneration(config))
    if not tied:  # transformers ties a fresh one whatever the configuration says, and unties it on loading
        head = torch.randn(model.shared.weight.shape, generator=torch.Generator().manual_seed(1))
        model.lm_head.weight = torch.nn.Parameter(head * 0.25)
    return model


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Saves a model, with its tokenizer if there is one, and returns the folder's name."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return str(folder)


def _random(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.tie_weights()
    return model.eval()


def _merges(backend: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
