from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget


module = evaluate.load(str(Path(__file__).with_name("reward.py")), model="Skywork/Skywork-Reward-V2-Qwen3-0.6B")
launch_gradio_widget(module)
