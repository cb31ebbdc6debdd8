"""Predict texts with an exported model: ONNX Runtime and `tokenizers`, without PyTorch."""

import hashlib
import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from counterpoise.commands.predictor import MAX_TOKENS, Predictor
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError
from counterpoise.metrics.thresholds import Decision, read_thresholds
from counterpoise.saved_files import read_json, reading

log = logging.getLogger(__name__)


def load_exported(folder: Path, device: str = "cpu") -> Predictor:
    """Return the predictor of a folder that `counterpoise.export` wrote.

    Args:
        folder: Exported folder of one model.
        device: "cpu", "cuda", or "auto": a GPU if the installed ONNX Runtime supports it.

    Raises:
        UserError: ONNX Runtime is not installed, or the files are damaged or do not fit each other.
    """
    runtime = require_package("onnxruntime")
    with reading(folder):
        return _build(folder, device, runtime)


def require_package(module: str) -> Any:
    """Return an imported module of an optional dependency; raise UserError if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"exported models need {module.split('.')[0]}: pip install onnx onnxruntime onnxscript"
        ) from error


def _build(folder: Path, device: str, runtime: Any) -> Predictor:
    content = read_json(folder / "export.json")
    labels = content["labels"]
    session = _start_session(folder / "model.onnx", device, runtime)
    names = (
        {each.name for each in session.get_inputs()},
        [(each.name, each.shape[1:]) for each in session.get_outputs()],
    )
    if names != ({"input_ids", "attention_mask"}, [("logits", [len(labels)])]):
        raise ValueError(f"model.onnx does not return the logits of {len(labels)} labels")
    file = folder / "tokenizer.json"
    if hashlib.sha256(file.read_bytes()).hexdigest() != content["tokenizer_sha256"]:
        raise UserError(f"{file} is not the tokenizer that was exported (SHA-256 in export.json): export the run again")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    # Without this entry the tokenizer alone decides what is read.
    tokenisation = Tokenisation(**content.get("tokenisation", {}))
    length = tokenisation.max_length

    def logits(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if tokenisation.chunked:
            ids, mask = (values.reshape(len(ids), -1, min(length, ids.shape[1])) for values in (ids, mask))
        return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

    found = Predictor(
        labels=labels,
        tokenizer=tokenizer,
        pad=content["pad_token_id"],
        model=logits,
        tokenisation=tokenisation,
        max_tokens=MAX_TOKENS["cpu" if session.get_providers()[0].startswith("CPU") else "cuda"],
    )
    if content["decision"] is not None:
        found.decision = Decision(**content["decision"])
        found.thresholds = read_thresholds(folder / "thresholds.json", found.labels)
    if not isinstance(found.pad, int):
        raise ValueError(f"pad_token_id is {found.pad!r}")
    # Token ids that the model does not know raise here, and not after the texts are read.
    found.predict(
        [np.array([number], np.int32) for number in (found.pad, *sorted(tokenizer.get_vocab().values())[-1:])]
    )
    return found


def _start_session(path: Path, device: str, runtime: Any) -> Any:
    """Return the ONNX Runtime session of a model on a device; on the CPU if the runtime does not support the device."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = _num_threads()
    # Threads that wait in a loop take the cores from other processes, and from the tokenizer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = runtime.get_available_providers()
    wanted = f"{'CUDA' if device == 'auto' else device.partition(':')[0].upper()}ExecutionProvider"
    if wanted not in available and device != "auto":
        log.warning("--device %s: this ONNX Runtime supports the CPU only; install onnxruntime-gpu", device)
    providers = [name for name in dict.fromkeys((wanted, "CPUExecutionProvider")) if name in available]
    return runtime.InferenceSession(path, options, providers=providers)


def _num_threads() -> int:
    """Return the number of threads of a session; 0: one for each physical core.

    `OMP_NUM_THREADS` limits them, as it does in PyTorch. ONNX Runtime pins the threads that it counts itself to cores,
    which fails for cores that the process may not use.
    """
    if (given := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return int(given)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if usable == os.cpu_count() else usable or 0
