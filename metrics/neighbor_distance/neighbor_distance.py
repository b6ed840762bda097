"""`hf_instructmine.NeighborDistance` as a measurement of `evaluate`."""

import datasets
import evaluate

import hf_instructmine
from hf_instructmine.indicators.measurement import IndicatorMeasurement


_DESCRIPTION = """
Cosine distance of an example to its i-th nearest neighbour among the given examples, in sentence-embedding space;
higher is more unlike the rest.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): Responses.
    prompts (`list[str]`): The instruction of each response.
    model (`str` or `SentenceTransformer`): Sentence encoder: Hub id, local folder, or loaded.
    i (`int`, defaults to 6): Which neighbour; there must be more examples than this.
    **kwargs: Any other argument of [`hf_instructmine.NeighborDistance`].

Returns:
    `dict`: `knn_<i>` (`list[float]`, from 0 to 2); and for each column the mean over
    its scored rows (`mean_<column>`) and the number of its other rows (`num_unscored_<column>`).
"""

_CITATION = r"""
@article{cao2023instruction,
  title={Instruction Mining: Instruction Data Selection for Tuning Large Language Models},
  author={Cao, Yihan and Kang, Yanbin and Wang, Chi and Sun, Lichao},
  journal={arXiv preprint arXiv:2307.06290},
  year={2023}
}
@inproceedings{reimers2019sentencebert,
  title={Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks},
  author={Reimers, Nils and Gurevych, Iryna},
  booktitle={Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing},
  year={2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NeighborDistance(IndicatorMeasurement):
    indicator = hf_instructmine.NeighborDistance

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2307.06290", "https://www.sbert.net"],
        )
