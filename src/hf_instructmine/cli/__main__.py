"""`python -m hf_instructmine.cli` is `instructmine`."""

from .main import run


run()
