"""Write a run as an ONNX model and compare its logits and test scores with those of the run."""

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.commands.exported_model import require_package
from counterpoise.commands.predict import training_csv_format
from counterpoise.commands.predictor import Predictor, load
from counterpoise.commands.run_config import read_ensemble
from counterpoise.commands.run_predictor import make_predictor
from counterpoise.commands.saved_run import load_run
from counterpoise.commands.tested_texts import read_tested_texts
from counterpoise.commands.trusted_classes import PACKAGE
from counterpoise.errors import UserError
from counterpoise.io import atomic_folder
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.model.module import Classifier

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Maximum absolute difference between the logits of the exported fp32 model and the run. Rounding causes about 1e-5."""
COMPARED_TEXTS = 64
"""Number of texts whose logits are compared."""


class LogitsGraph(nn.Module):
    """The exported graph: token ids to logits."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits, float [B, C].

        Args:
            input_ids: Token ids, int64 [B, T]; of an encoder with chunks [B, chunks, T].
            attention_mask: 1 for tokens and 0 for padding, of the same shape.
        """
        return self.head(self.encoder(input_ids, attention_mask))


def export(run: Path, output: Path, int8: bool = False, packages: Sequence[str] = (PACKAGE,)) -> dict[str, Any]:
    """Export a run.

    Args:
        run: Run folder.
        output: Folder to write. An earlier export is replaced.
        int8: Quantise the weights to 8 bits. Defaults to False.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.

    Returns:
        Content of export.json.

    Raises:
        UserError: `output` is not an earlier export, the encoder or head cannot be expressed in ONNX, or the logits of
            the exported model differ from those of the run.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_package(name)
    _check_output(output)
    if (run / ENSEMBLE_FILE).is_file():
        return _export_ensemble(run, output, int8, packages)
    return _export_run(run, output, int8, packages)


def _export_run(
    run: Path, output: Path, int8: bool, packages: Sequence[str], texts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Export one run. With `texts`, it is compared on these and not scored. See `export`."""
    model, config = load_run(run, packages)
    ours = make_predictor(run, model, config, packages=packages)
    tested = None
    try:
        if texts is None:
            tested = read_tested_texts(run, config, ours.labels, packages)
            texts = tested.texts
        tokens = ours.tokenise(texts)
    except UserError as error:
        log.warning("%s. The exported model is compared on random tokens, and test scores are not measured", error)
        tokens = _random_tokens(ours)
    with atomic_folder(output) as folder:
        _write_companions(folder, run, ours)
        content = _export_info(run, ours, config) | {"tokenizer_sha256": _digest(folder / "tokenizer.json")}

        def record_checks(precision: str) -> None:
            """Record the difference and the test scores of the model in the folder."""
            content["precision"] = precision
            _write_info(folder, content)
            exported = load(folder)
            assert isinstance(exported, Predictor)
            content["largest_difference"][precision] = _largest_difference(ours, exported, tokens)
            if tested is not None:
                content["test"][precision] = tested.scores(model, exported.predict(tokens))

        _write_model(folder / "model.onnx", model)
        record_checks("fp32")
        difference = content["largest_difference"]["fp32"]
        if not difference <= TOLERANCE:
            raise UserError(
                f"{run}: a logit of the exported model differs from the run's by {difference:.2g}, more than "
                f"{TOLERANCE:g}: nothing was written"
            )
        if int8:
            _quantise(folder / "model.onnx")
            record_checks("int8")
        _write_info(folder, content)
    return content


def _check_output(output: Path) -> None:
    """Raise UserError if the folder exists and is neither empty nor an earlier export."""
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / "export.json").is_file())):
        raise UserError(f"--output {output} exists and is not an earlier export: name another folder")


def _export_ensemble(run: Path, output: Path, int8: bool, packages: Sequence[str]) -> dict[str, Any]:
    """Export each model of an ensemble, and copy the rest. See `export`."""
    ensemble = read_ensemble(run)
    members = ensemble["members"]
    model, config = load_run(run / members[0], packages)
    tested, texts = None, None
    try:
        tested = read_tested_texts(run / members[0], config, ensemble["labels"], packages)
        texts = tested.texts
    except UserError:
        pass  # each model is compared on random tokens, with a warning
    with atomic_folder(output) as folder:
        exported = [_export_run(run / name, folder / name, int8, packages, texts) for name in members]
        for name in (ENSEMBLE_FILE, "thresholds.json", "calibration.json"):
            if (run / name).is_file():
                shutil.copy(run / name, folder / name)
        if (run / "baseline").is_dir():
            shutil.copytree(run / "baseline", folder / "baseline")
        content = exported[0] | {"run": str(run.resolve()), "test": {}}
        for precision in content["largest_difference"]:
            differences = [each["largest_difference"][precision] for each in exported]
            content["largest_difference"][precision] = max(differences)
        if tested is not None:
            ours = load(folder)
            if isinstance(model.scoring, MultiLabelScoring):
                model.scoring.thresholds.copy_(torch.from_numpy(ours.thresholds))
            # Those of the run stand for fp32 beside int8: the exported model in fp32 no longer exists then.
            content["test"] = {
                "fp32": tested.scores(model, (load(run, packages=packages) if int8 else ours)(tested.texts))
            }
            if int8:
                content["test"]["int8"] = tested.scores(model, ours(tested.texts))
        _write_info(folder, content)
    return content


def _write_model(path: Path, model: Classifier) -> None:
    """Write the model in fp32. Weights beyond 2 GB, the limit of an ONNX file, are stored beside it."""
    # Two texts, one padded, so that no dimension or mask is traced as a constant.
    chunked = getattr(model.encoder, "chunks", None) is not None
    ids = torch.ones((2, 3, 8) if chunked else (2, 8), dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, ..., 5:] = 0
    axes = {0: "batch", 1: "chunks", 2: "length"} if chunked else {0: "batch", 1: "length"}
    with _quiet_exporters():
        for module in model.encoder.modules():
            if isinstance(module, PreTrainedModel):
                module.set_attn_implementation("sdpa")  # ONNX cannot express GPU attention kernels.
        try:
            program = torch.onnx.export(
                LogitsGraph(model).eval(),
                (ids, mask),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes={"input_ids": axes, "attention_mask": axes},
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            names = f"{type(model.encoder).__name__} with {type(model.head).__name__}"
            raise UserError(f"{names} cannot be exported: {str(error).strip().splitlines()[0]}") from error
        assert program is not None
        program.save(path)


def _quantise(path: Path) -> None:
    """Replace the model by one with int8 weights."""
    quantisation = require_package("onnxruntime.quantization")
    content = require_package("onnx").load(path)
    # The quantiser transposes weights in place and fails on their recorded shapes.
    del content.graph.value_info[:]
    for data in path.parent.glob(f"{path.name}*"):
        data.unlink()
    with _quiet_exporters():
        quantisation.quantize_dynamic(content, path, per_channel=True, weight_type=quantisation.QuantType.QInt8)


def _write_companions(folder: Path, run: Path, ours: Predictor) -> None:
    """Write the run's tokenizer, thresholds and calibration."""
    backend = ours.tokenizer
    backend.enable_padding(pad_id=ours.pad, pad_token=backend.id_to_token(ours.pad))
    backend.save(str(folder / "tokenizer.json"))
    backend.no_padding()
    if ours.thresholds is not None:
        by_label = dict(zip(ours.labels, ours.thresholds.tolist(), strict=True))
        (folder / "thresholds.json").write_text(json.dumps(by_label, indent=2, ensure_ascii=False), encoding="utf-8")
    if (run / "calibration.json").is_file():
        shutil.copy(run / "calibration.json", folder)


def _export_info(run: Path, ours: Predictor, config: dict) -> dict[str, Any]:
    return {
        "run": str(run.resolve()),
        "labels": ours.labels,
        "tokenisation": asdict(ours.tokenisation),
        "pad_token_id": ours.pad,
        "reading": training_csv_format(config),
        "decision": None if ours.decision is None else asdict(ours.decision),
        "versions": {
            name: require_package(name).__version__ for name in ("torch", "onnx", "onnxruntime", "tokenizers")
        },
        "largest_difference": {},
        "test": {},
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_info(folder: Path, content: dict[str, Any]) -> None:
    (folder / "export.json").write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def _random_tokens(ours: Predictor) -> list[np.ndarray]:
    """Return random token ids of every length that is read at once, and of every number of chunks."""
    rng, size, read = np.random.default_rng(0), ours.tokenizer.get_vocab_size(), ours.tokenisation
    lengths = [*range(1, read.max_length + 1)]
    if read.chunked:
        lengths += [chunks * read.max_length for chunks in range(2, read.max_chunks + 1)]
    return [rng.integers(0, size, length, np.int32) for length in lengths]


def _largest_difference(ours: Predictor, exported: Predictor, tokens: list[np.ndarray]) -> float:
    """Return the largest difference of a logit, over texts of all lengths, alone and in batches."""
    ranked = np.argsort([len(ids) for ids in tokens], kind="stable")
    some = [tokens[row] for row in ranked[np.linspace(0, len(ranked) - 1, COMPARED_TEXTS).astype(int)]]
    largest = 0.0
    for size in (1, 1024):
        one, other = (replace(each, max_tokens=size).predict(some) for each in (ours, exported))
        largest = max(largest, float(np.nan_to_num(np.abs(one - other), nan=np.inf).max()))
    return largest


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Suppress log messages and warnings of the exporters."""
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)
