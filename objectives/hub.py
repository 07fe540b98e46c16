"""The Hugging Face hub within a task: quiet, and off at once where it cannot be reached."""

import contextlib
import logging
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

_PATIENCE = 5.0
"""Seconds to wait for a connection, before the hub counts as out of reach."""


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """No loading bars of data sets."""
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            datasets.utils.logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_hub(*, local: bool = False) -> Iterator[None]:
    """No loading bars, notes or retries; without a network, what was downloaded before alone.

    The hub's client asks six times, with a warning and a longer sleep after each: half a minute
    until a missing network is told. So we look whether it can be reached, and if not, say so to
    the client, which then looks into its cache only.
    """
    import datasets
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    offline = (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        if not local and not any(offline) and not _reached(constants.ENDPOINT):
            constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        with no_bars():
            yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = offline
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reached(endpoint: str) -> bool:
    """Whether the hub's host takes a connection; behind a proxy only the client can tell."""
    parts = urlsplit(endpoint)
    if parts.scheme in getproxies():
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), _PATIENCE).close()
    except OSError:
        return False
    return True
