"""`hf_instructmine.UniEval` as a measurement of `evaluate`."""

import datasets
import evaluate

import hf_instructmine
from hf_instructmine.indicators.measurement import IndicatorMeasurement


_DESCRIPTION = """
Naturalness, coherence and understandability of the response under UniEval; higher is better.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): Responses.
    prompts (`list[str]`): The instruction of each response.
    model (`str` or `PreTrainedModel`): UniEval's T5: Hub id, local folder, PEFT adapter, or loaded.
    dimensions (`Sequence[str]`, defaults to all three): Some of `naturalness`, `coherence`, `understandability`.
    **kwargs: Any other argument of [`hf_instructmine.UniEval`].

Returns:
    `dict`: `naturalness`, `coherence`, `understandability` (`list[float]` each, from 0 to 1); and for each
    column the mean over its scored rows (`mean_<column>`) and the number of its other rows (`num_unscored_<column>`).
"""

_CITATION = r"""
@article{cao2023instruction,
  title={Instruction Mining: Instruction Data Selection for Tuning Large Language Models},
  author={Cao, Yihan and Kang, Yanbin and Wang, Chi and Sun, Lichao},
  journal={arXiv preprint arXiv:2307.06290},
  year={2023}
}
@inproceedings{zhong2022unieval,
  title={Towards a Unified Multi-Dimensional Evaluator for Text Generation},
  author={Zhong, Ming and Liu, Yang and Yin, Da and Mao, Yuning and Jiao, Yizhu and Liu, Pengfei
    and Zhu, Chenguang and Ji, Heng and Han, Jiawei},
  booktitle={Proceedings of the 2022 Conference on Empirical Methods in Natural Language Processing},
  pages={2023--2038},
  year={2022}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Unieval(IndicatorMeasurement):
    indicator = hf_instructmine.UniEval

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2307.06290", "https://github.com/maszhongming/UniEval"],
        )
