import os
from pathlib import Path

from hf_instructmine.indicators.space import EXAMPLES, metric_space, settings


# A variable of the Space, or of the shell, names another: a Hub id or a folder.
MODEL = os.environ.get("MODEL", "Skywork/Skywork-Reward-V2-Qwen3-0.6B")
space = metric_space(Path(__file__).parent, EXAMPLES, model=MODEL)

if __name__ == "__main__":
    space.launch(**settings())
