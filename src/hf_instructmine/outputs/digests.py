"""Digests of data. Folders, rules and caches hold them, so the value of what is digested must never change."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


def digest(value: Any, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of plain data, whatever the order of its keys."""
    return digest_of_text(json.dumps(value, sort_keys=True, default=str), length)


def digest_of_text(text: str, length: int = 16) -> str:
    """The first hexadecimal digits, of 64, of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def fast_digest(parts: Iterable[Any]) -> str:
    """`xxh64:` and 16 hexadecimal digits for texts and buffers of any size, as if they were one."""
    import xxhash

    state = xxhash.xxh64()
    for part in parts:
        # A tokenizer's vocabulary may hold lone surrogates.
        state.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return f"xxh64:{state.hexdigest()}"


def row_digest(content: str | bytes) -> bytes:
    """16 bytes that tell one row's text from all others."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=16).digest()
