"""`hf_instructmine.Reward` as a measurement of `evaluate`."""

import datasets
import evaluate

import hf_instructmine
from hf_instructmine.indicators.measurement import IndicatorMeasurement


_DESCRIPTION = """
Score of the response to a prompt under a reward model, on the model's own scale; higher is better.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): Responses.
    prompts (`list[str]`): The instruction of each response.
    model (`str` or `PreTrainedModel`): Reward model with one label: Hub id, local folder, PEFT adapter, or loaded.
    **kwargs: Any other argument of [`hf_instructmine.Reward`].

Returns:
    `dict`: `reward` (`list[float]`, unbounded); and for each column the mean over
    its scored rows (`mean_<column>`) and the number of its other rows (`num_unscored_<column>`).
"""

_CITATION = r"""
@article{cao2023instruction,
  title={Instruction Mining: Instruction Data Selection for Tuning Large Language Models},
  author={Cao, Yihan and Kang, Yanbin and Wang, Chi and Sun, Lichao},
  journal={arXiv preprint arXiv:2307.06290},
  year={2023}
}
@inproceedings{kopf2023openassistant,
  title={OpenAssistant Conversations -- Democratizing Large Language Model Alignment},
  author={K{\"o}pf, Andreas and Kilcher, Yannic and von R{\"u}tte, Dimitri and others},
  booktitle={Advances in Neural Information Processing Systems},
  volume={36},
  year={2023}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Reward(IndicatorMeasurement):
    indicator = hf_instructmine.Reward

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}),
            reference_urls=[
                "https://arxiv.org/abs/2307.06290",
                "https://huggingface.co/OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5",
            ],
        )
