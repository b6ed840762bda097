"""Ray clusters: how scoring and sweeps connect to one, or start one here."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InstructMineError, one_line


_CONNECT_SECONDS = 5


@contextmanager
def ray_session(address: str | None = None) -> Iterator[Any]:
    """Connects to a Ray cluster, or starts one on this machine for as long as the block takes.

    A process that is connected already stays so, whatever the address.

    Args:
        address (`str`, *optional*): `HOST:PORT` of a cluster that this machine is a node of, `"auto"` for the one that
            runs here, or `"local"` for a new one; defaults to `RAY_ADDRESS`. Without either Ray decides: it takes the
            one that runs here, or starts one.

    Raises:
        [`InstructMineError`]: Where Ray is not installed, or no cluster is at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        check_address(address)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # what Ray raises has many kinds: OSError, ValueError, RuntimeError, its own
        raise InstructMineError(
            f"cannot connect to the Ray cluster '{address or 'auto'}' ({one_line(error, first=True)}): start one, or "
            "this command on one of its nodes"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The package.

    Raises:
        [`InstructMineError`]: Where it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InstructMineError("executor='ray' needs Ray: pip install 'hf-instructmine[ray]'") from error
    return ray


def check_address(address: str) -> None:
    """Refuses what is no address of a cluster, and one where nothing answers: Ray itself tries for a minute.

    Raises:
        [`InstructMineError`]: Says which.
    """
    if "://" in address:
        raise InstructMineError(
            f"'{address}' is the address of a Ray client, whose cluster cannot read files here: start this command "
            "on a node of the cluster, with its HOST:PORT"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        if address in ("auto", "local"):
            return
        raise InstructMineError(f"'{address}' is no address of a Ray cluster: write HOST:PORT, or 'auto'")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InstructMineError(
            f"no Ray cluster answers at '{address}' ({one_line(error)}): start one with `ray start --head`, or mend "
            "the address"
        ) from error
