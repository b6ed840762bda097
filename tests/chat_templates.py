"""Chat templates: all that TRL ships, and ten that each do something else at a turn's beginning, inside or end."""

import re
from pathlib import Path

import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


SHIPPED = {
    p.stem: p.read_text(encoding="utf-8") for p in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
}

_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _ASK
_THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
)
_TURN = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
OWN = {
    "ends in EOS": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "ends in its own token": _CHATML,
    "strips texts": _TURN + "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "EOS after the last turn": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    "no generation prompt": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}",
    "empty thought before the answer": _THOUGHT + _ASK,
    "prompt opens the thought": _THOUGHT + _ASK.replace("assistant\n", "assistant\n<think>\n\n\n"),
    "marks what is generated": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
    "{% endfor %}" + _ASK,
    "no end of turn": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "words alone": "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:{% endif %}",
}
TEMPLATES = {**SHIPPED, **OWN}

_WRITTEN = re.compile(r"<[|｜/]?[A-Za-z_▁|｜/0-9:]+[|｜]?>|<\|[^|>{}]+\|>|\[/?[A-Z_]+\]")
_TEXT = {"<think>", "</think>", "<tool_call>", "</tool_call>"}


def tokenizer_with(template: str, eos: str = "<eos>") -> PreTrainedTokenizerFast:
    """One token per byte, and every special token that the template writes."""
    special = ["<bos>", *sorted({*_WRITTEN.findall(template), eos, "<|user|>", "<|assistant|>", "<|system|>"} - _TEXT)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*special, *alphabet]))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token=eos, pad_token=eos)
    tokenizer.chat_template = template
    return tokenizer
