"""One finetune: a subset in, losses out."""
