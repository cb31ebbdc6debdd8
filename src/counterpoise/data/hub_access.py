"""Access to the Hugging Face Hub: where it cannot be reached, only the local cache is used, without waiting."""

import functools
import logging
import sys
import threading

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_session

from counterpoise.errors import UserError

log = logging.getLogger(__name__)

TIMEOUT = 2.0
"""Seconds in which the Hub must answer. Its library would try again for about a minute."""


@functools.lru_cache
def require_model(name: str, revision: str) -> None:
    """Raise UserError for a model that is not in the local cache if the Hub cannot be reached.

    Args:
        name: Name of the model on the Hub.
        revision: Branch, tag or commit.
    """
    reason = no_access()
    if reason is None:
        return
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)
    except HFValidationError:
        raise UserError(f"encoder.name={name}: no such folder, and no name of a model on the Hub") from None
    if not cached:
        raise UserError(
            f"encoder.name={name}: no such folder, not in the local cache of the Hub ({constants.HF_HUB_CACHE}), and "
            f"{reason}"
        )
    log.info("encoder.name=%s is taken from the local cache: %s", name, reason)


def no_access() -> str | None:
    """Return why the Hub cannot be accessed, as a clause; None if it can.

    An unreachable Hub switches the libraries to offline mode.
    """
    if constants.HF_HUB_OFFLINE and not _error.cache_info().currsize:
        return "HF_HUB_OFFLINE=1 forbids access to the Hub"
    error = _error(constants.ENDPOINT)
    if error is None:
        return None
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return f"{constants.ENDPOINT} cannot be reached: {error}"


@functools.lru_cache
def _error(endpoint: str) -> str | None:
    """Return why an endpoint does not answer; None if it does. The answer may be any status."""
    error: list[str | None] = [f"no answer within {TIMEOUT:.0f} s"]

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=TIMEOUT)
            error[0] = None
        except Exception as failure:  # the HTTP library, proxies and TLS raise their own
            error[0] = " ".join(str(failure).split()) or type(failure).__name__

    # A thread, because resolving a name has no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return error[0]
