"""Run by torchrun, on two processes: the loss of a whole model, and of the same model sharded over both (FSDP2)."""

import json
import os
import sys

import torch.distributed as dist
from datasets import Dataset
from tiny_models import CHATML, ROWS, byte_tokenizer, causal_model, conversations_of
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.evaluation import encode_set, evaluation_loss
from hf_instructmine.models.loading import LoadedModel


dist.init_process_group("gloo")
tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer, 300)
encoded = encode_set(EvaluationSet.read("rows", Dataset.from_dict(conversations_of(ROWS))), loaded, 2048)
measured = {"whole": evaluation_loss(loaded, encoded)}
mesh = init_device_mesh("cpu", (2,))
for layer in [*loaded.model.model.layers, loaded.model]:
    fully_shard(layer, mesh=mesh)
measured["sharded"] = evaluation_loss(loaded, encoded)
with open(f"{sys.argv[1]}.{dist.get_rank()}", "w") as file:
    json.dump({name: m.nll.tolist() for name, m in measured.items()}, file)
os._exit(0)  # an interpreter that winds gloo's threads up for FSDP aborts one time in several, after all is written
