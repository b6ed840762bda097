"""Scoring as a Hugging Face Job: the same verb on a machine of the Hub, which pushes the scored folder."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..data.inputs import Source
from ..errors import InstructMineError
from ..outputs.hub import check_repo_id, require_token, status_of, unreadable, with_retries


if TYPE_CHECKING:
    from huggingface_hub import JobInfo

_IMAGE = "python:3.12"
_FOLDER = "scored"


def score_in_job(
    inputs: Sequence[str],
    options: Sequence[str],
    push_to: str | None,
    *,
    flavor: str | None = None,
    package: str | None = None,
    token: str | None = None,
) -> "JobInfo":
    """Submits a job that scores Hub datasets and pushes the scored folder to a private dataset.

    The token reaches the job as a secret of that name, `HF_TOKEN`, and stands neither in its command nor in its log.

    Args:
        inputs (`Sequence[str]`): Hub dataset ids, with `:SPLIT` or `:CONFIG:SPLIT` after them where needed.
        options (`Sequence[str]`): Of `instructmine score`, but for `--output-dir`.
        push_to (`str`): Repository id of the dataset that the folder is pushed to; made where absent.
        flavor (`str`, *optional*): Hardware of the Hub, such as `"a10g-small"`; the Hub's default has no GPU.
        package (`str`, *optional*): What `pip install` is given in the job; this release if not given.
        token (`str`, *optional*): The one that is logged in with, if not given.

    Returns:
        `JobInfo`: With its `id` and its `url`.

    Raises:
        [`InstructMineError`]: Before anything is sent where there is no repository to push to, an input or a model is
            a file of this machine, or there is no token; and where the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    if not push_to:
        raise InstructMineError(
            "a job leaves nothing but what it pushes: name a dataset with --push-to, e.g. me/scored"
        )
    check_repo_id(push_to)
    for name in inputs:
        if Path(name).exists():
            raise InstructMineError(f"a job cannot read '{name}', which is on this machine: push it to the Hub first")
        check_repo_id(Source.parse(name).path)
    for option in options:
        for value in (part.partition("=")[2] for part in option.split(",")):
            if value and Path(value).exists():
                raise InstructMineError(
                    f"a job cannot read '{value}', which is on this machine: name what is on the Hub"
                )
    token, api = require_token(token), HfApi(token=token)
    try:
        for name in inputs:
            with_retries(partial(api.dataset_info, Source.parse(name).path))
        return api.run_job(
            image=_IMAGE,
            command=["bash", "-c", _command(inputs, options, push_to, package)],
            secrets={"HF_TOKEN": token},
            flavor=flavor,
        )
    except OfflineModeIsEnabled as error:
        raise InstructMineError("offline mode is on: unset HF_HUB_OFFLINE to submit a job") from error
    except HTTPError as error:
        if status_of(error) == 402:
            said = "the account has to pay for it first: see https://huggingface.co/settings/billing"
            raise InstructMineError(f"the Hub refused the job (status 402): {said}") from error
        raise InstructMineError(unreadable(error, "the job or its dataset")) from error


def _command(inputs: Sequence[str], options: Sequence[str], push_to: str, package: str | None) -> str:
    steps = [
        ["pip", "install", "--quiet", package or f"hf-instructmine=={__version__}"],
        ["instructmine", "score", *inputs, *options, "--output-dir", _FOLDER],
        ["hf", "upload", push_to, _FOLDER, ".", "--repo-type", "dataset", "--private", "--exclude", ".columns/*"],
    ]
    return " && ".join(map(shlex.join, steps))
