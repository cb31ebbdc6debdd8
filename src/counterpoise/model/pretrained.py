"""Load the weights of a pre-trained encoder, and refuse a checkpoint that does not hold all of them."""

import logging
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from counterpoise.errors import UserError, one_line

log = logging.getLogger(__name__)

MANY_WEIGHTS = 2**28
"""Number of weights, a gigabyte in fp32, above which they are compared with the checkpoint before loading."""

SHOWN_KEYS = 3
"""Weights that a message names."""
_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    ImportError,
    RuntimeError,
    AssertionError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers raises for an invalid configuration or checkpoint."""


def load_config(location: str, name: str, revision: str = "main") -> Any:
    """Return the transformers configuration of an encoder.

    Args:
        location: Local folder or hub name.
        name: Value of `encoder.name`, for messages.
        revision: Branch, tag or commit on the hub.

    Raises:
        UserError: There is none, or it is not valid.
    """
    try:
        return AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise UserError(_cannot_be_loaded(name, error)) from error


def read_config(location: str, name: str, revision: str = "main") -> dict[str, Any]:
    """Return the content of config.json. See `load_config`."""
    try:
        return PreTrainedConfig.get_config_dict(location, revision=revision)[0]
    except _LOADING_ERRORS as error:
        raise UserError(_cannot_be_loaded(name, error)) from error


def load_backbone(location: str, name: str, config: Any, attention: str, pooler: bool, revision: str = "main") -> Any:
    """Return a pre-trained transformer in float32. Of an encoder-decoder model, this is its encoder.

    Args:
        location: Local folder or hub name.
        name: Value of `encoder.name`, for messages.
        config: Configuration from `load_config`.
        attention: Attention implementation. Families without SDPA use eager attention instead.
        pooler: Whether the pre-trained pooling layer is used.
        revision: Branch, tag or commit on the hub.

    Raises:
        UserError: The checkpoint cannot be read, lacks weights, or holds weights of another shape.
    """
    _check_sizes(location, name, config)
    try:
        model, report = _load(location, config, attention, revision)
    except _LOADING_ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(_cannot_be_loaded(name, error)) from error
    # Not config.is_encoder_decoder: it is false in checkpoints of an encoder alone, such as T5EncoderModel's.
    backbone = model.encoder if hasattr(model, "encoder") and hasattr(model, "decoder") else model
    _check_report(report, model, backbone, name, pooler)
    return backbone


def _check_sizes(location: str, name: str, config: Any) -> None:
    """Raise UserError if config.json describes many more weights than the checkpoint in a local folder can hold.

    transformers would allocate them, and fill them with random values, before it reports that they are missing. It does
    so for fewer than `MANY_WEIGHTS`, because it names what is missing.
    """
    checkpoint = sum(path.stat().st_size for path in Path(location).glob("*.safetensors"))
    hidden = getattr(config, "hidden_size", None)
    for key, width in (("vocab_size", getattr(config, "embedding_size", hidden)), ("num_hidden_layers", hidden)):
        size = getattr(config, key, None)
        # A weight takes at least a byte.
        described = size * width if isinstance(size, int) and isinstance(width, int) else 0
        if checkpoint and described > max(checkpoint, MANY_WEIGHTS):
            raise UserError(
                f"encoder.name={name}: {key}={size:,} of config.json describes at least {described:,} weights, and "
                f"the checkpoint has {checkpoint:,} bytes"
            )


def _load(location: str, config: Any, attention: str, revision: str) -> tuple[Any, dict[str, Any]]:
    """Return the whole model and the report of transformers about its weights."""

    def load(implementation: str) -> tuple[Any, dict[str, Any]]:
        with _SilentLoading():
            return AutoModel.from_pretrained(
                location,
                config=config,
                revision=revision,
                trust_remote_code=False,
                attn_implementation=implementation,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `_check_report` refuses them and names them.
            )

    try:
        return load(attention)
    except ValueError as error:
        if attention != "sdpa" or "attention" not in str(error):
            raise
    log.info("encoder.name=%s does not support SDPA: using eager attention", location)
    return load("eager")


def _check_report(report: dict[str, Any], model: nn.Module, backbone: nn.Module, name: str, pooler: bool) -> None:
    """Raise UserError if weights that the encoder uses were not loaded; warn of layers that are left out."""
    used = {id(value) for value in backbone.state_dict(keep_vars=True).values()}
    names = {key for key, value in model.state_dict(keep_vars=True).items() if id(value) in used}
    if not pooler:
        names = {key for key in names if not _is_pooler(key)}
    missing = sorted(names & set(report["missing_keys"]))
    shapes = sorted(each for each in report["mismatched_keys"] if each[0] in names)
    unexpected = set(report["unexpected_keys"])
    if missing and all(map(_is_pooler, missing)):
        raise UserError(
            f"encoder.pooling=pooler: the checkpoint of {name} has no weights of the pooling layer "
            f"({_listed(missing)}): use encoder.pooling=mean or cls"
        )
    if missing:
        problem = f"{len(missing)} of the {len(names)} weights of {type(backbone).__name__} are missing"
        raise UserError(
            f"encoder.name={name}: {problem} in its checkpoint and would be random: {_listed(missing)}."
            + _reason(missing, unexpected)
        )
    if shapes:
        examples = _listed(f"{key} has {list(found)} instead of {list(wanted)}" for key, found, wanted in shapes)
        raise UserError(
            f"encoder.name={name}: {len(shapes)} weights of its checkpoint do not have the shape that config.json "
            f"describes: {examples}"
        )
    # Heads of the pre-training task are left out as intended; a layer that config.json does not count is not.
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    patterns = {_pattern(key) for key in names}
    extra = sorted(key for key in unexpected if _pattern(key.removeprefix(prefix)) in patterns)
    if extra:
        log.warning(
            "encoder.name=%s: config.json describes fewer layers than its checkpoint holds; %d weights are not used: "
            "%s",
            name,
            len(extra),
            _listed(extra),
        )


def _reason(missing: Collection[str], unexpected: Collection[str]) -> str:
    """Return why the weights are missing, if the names of the checkpoint show it."""
    first = min(missing)
    prefixes = sorted({key.removesuffix(first) for key in unexpected if key.endswith(f".{first}")}, key=len)
    for prefix in prefixes:
        if found := sum(f"{prefix}{key}" in unexpected for key in missing):
            return (
                f" {found} of them are there with the prefix '{prefix}', which a wrapper around the model added: save "
                "the model inside the wrapper with save_pretrained"
            )
    if unexpected:
        return f" The checkpoint holds {len(unexpected)} other weights: {_listed(sorted(unexpected))}"
    return " The checkpoint is incomplete"


def _is_pooler(key: str) -> bool:
    return key.startswith("pooler.")


def _pattern(key: str) -> str:
    """Return the name of a weight without the numbers of its layers."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", key)


def _listed(keys: Iterable[str]) -> str:
    names = list(keys)
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(names[:SHOWN_KEYS]) + more


def _cannot_be_loaded(name: str, error: Exception) -> str:
    return f"encoder.name={name} cannot be loaded: {one_line(error)}"


class _SilentLoading:
    """Silences the loading report of transformers, which `_check_report` replaces."""

    def __enter__(self) -> None:
        self.level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        transformers.logging.set_verbosity(self.level)
        transformers.logging.enable_progress_bar()
