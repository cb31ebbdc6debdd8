"""Exports a finished run to ONNX: `python -m counterpoise.export RUN [--int8]`.

The folder that it writes is all that a server needs, with `onnxruntime` and `tokenizers` alone, and
`counterpoise.predict` takes it in the place of the run:

    model.onnx        logits, float32 [B, C], of input_ids and attention_mask, int64 [B, T], for any B and T
    tokenizer.json    cuts texts at the length of the run and pads the texts of a batch
    export.json       labels: the C names; decision: what `balance.Decision` takes, null where a text has one class;
                      reading: how the training file was read; what was checked and measured
    thresholds.json   where a text has any number of labels, label to probability
    calibration.json  where the run has one: probabilities are those of (logits - shift) / temperature

The exported model is run on texts of the test split, of every length, and is not written where its logits differ from
those of the run's. What int8 costs is measured on the whole test split. It holds the weights in 8 bits and rounds
activations to 8 bits as it runs, by their range in the batch: a text's logits depend a little on the texts beside it.
"""

import argparse
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from counterpoise.balance.counts import Targets
from counterpoise.commands.predict import training_csv_format
from counterpoise.commands.predictor import Predictor, load, make_predictor, require_package
from counterpoise.commands.saved_run import build, load_run
from counterpoise.data.splits import Vocabulary
from counterpoise.errors import UserError
from counterpoise.metrics.buckets import DEFAULT_BOUNDS, Bounds
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.model.module import Classifier

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""How far a logit of the exported model may be from the run's, in fp32. Rounding comes to 1e-5 or so."""
CHECKED = 64
"""Texts on which they are compared."""
SCORES = (
    ("accuracy", "balanced_accuracy", "macro_f1", "head_recall", "medium_recall", "tail_recall"),
    ("micro_f1", "macro_f1", "head_f1", "medium_f1", "tail_f1", "map"),
)
"""What is told of the test split, where a text has one class, and where it has any number of labels."""


class Logits(nn.Module):
    """From token ids to logits: what a classifier computes, as ONNX is to see it."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns logits [B, C] of int64 [B, T]."""
        return self.head(self.encoder(input_ids, attention_mask))


def export(run: Path, output: Path, int8: bool = False) -> dict[str, Any]:
    """Writes the folder `output`, replacing an earlier export; returns what its export.json holds.

    Raises UserError where `output` is something else, or where the exported model differs from the run's.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_package(name)
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / "export.json").is_file())):
        raise UserError(f"--output {output} exists and is no exported model: name another folder")
    model, config = load_run(run)
    ours = make_predictor(model, config)
    try:
        tested = _test_split(run, config, ours)
        tokens = ours.tokenise(tested.texts)
    except UserError as error:
        log.warning("%s; the exported model is compared on random tokens, and its scores are not measured", error)
        tested, tokens = None, _random_tokens(ours, config["encoder"]["max_length"])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as unfinished:
        folder = Path(unfinished) / "model"
        folder.mkdir()
        _write_companions(folder, run, ours)
        content = _content(run, ours, config)

        def checked(precision: str) -> None:
            """Notes what the model in the folder comes to."""
            content["precision"] = precision
            _write(folder, content)
            exported = load(folder)
            content["largest_difference"][precision] = _difference(ours, exported, tokens)
            if tested is not None:
                content["test"][precision] = tested.scores(model, exported.predict(tokens))

        _write_model(folder / "model.onnx", model)
        checked("fp32")
        difference = content["largest_difference"]["fp32"]
        if not difference <= TOLERANCE:
            raise UserError(
                f"{run}: a logit of the exported model differs from the run's by {difference:.2g}, more than "
                f"{TOLERANCE:g}: nothing was written"
            )
        if int8:
            _quantise(folder / "model.onnx")
            checked("int8")
        _write(folder, content)
        if output.exists():
            shutil.rmtree(output)
        folder.replace(output)
    return content


def main() -> None:
    """Reads the command line, exports, prints what was checked and measured."""
    parser = argparse.ArgumentParser(
        prog="counterpoise.export",
        description="Exports a finished run to ONNX, checks it and measures what int8 costs.",
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--output", type=Path, help="folder to write (default: onnx, or onnx-int8, in the run's)")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits: a quarter of the size, faster on a CPU")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    output = arguments.output or arguments.run / ("onnx-int8" if arguments.int8 else "onnx")
    console = Console()
    with console.status("exporting"):
        content = export(arguments.run, output, arguments.int8)
    _show(console, content, (output / "model.onnx").stat().st_size)
    console.print(output, soft_wrap=True, highlight=False, markup=False)


def _write_model(path: Path, model: Classifier) -> None:
    """Writes the model in fp32, weights included, of which there may be 2 GB: more than a file of ONNX holds."""
    # Two texts, one padded, so that nothing is taken for constant.
    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {0: "batch", 1: "length"}
    with _silent():
        # Kernels for GPUs have no form in ONNX.
        model.encoder.backbone.set_attn_implementation("sdpa")  # type: ignore[union-attr, operator]
        program = torch.onnx.export(
            Logits(model).eval(),
            (ids, mask),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path)


def _quantise(path: Path) -> None:
    """Replaces the model by one with weights in int8."""
    quantisation = require_package("onnxruntime.quantization")
    content = require_package("onnx").load(path)
    # The quantiser transposes weights in place, and stumbles over what is noted of their shapes.
    del content.graph.value_info[:]
    for data in path.parent.glob(f"{path.name}*"):
        data.unlink()
    with _silent():
        quantisation.quantize_dynamic(content, path, per_channel=True, weight_type=quantisation.QuantType.QInt8)


def _write_companions(folder: Path, run: Path, ours: Predictor) -> None:
    """Writes the tokenizer as the run used it, thresholds and calibration."""
    backend = ours.tokenizer
    backend.enable_padding(pad_id=ours.pad, pad_token=backend.id_to_token(ours.pad))
    backend.save(str(folder / "tokenizer.json"))
    backend.no_padding()
    if ours.thresholds is not None:
        by_label = dict(zip(ours.labels, ours.thresholds.tolist(), strict=True))
        (folder / "thresholds.json").write_text(json.dumps(by_label, indent=2, ensure_ascii=False), encoding="utf-8")
    if (run / "calibration.json").is_file():
        shutil.copy(run / "calibration.json", folder)


def _content(run: Path, ours: Predictor, config: dict) -> dict[str, Any]:
    return {
        "run": str(run.resolve()),
        "labels": ours.labels,
        "max_length": config["encoder"]["max_length"],
        "pad_token_id": ours.pad,
        "reading": training_csv_format(config),
        "decision": None if ours.decision is None else asdict(ours.decision),
        "versions": {
            name: require_package(name).__version__ for name in ("torch", "onnx", "onnxruntime", "tokenizers")
        },
        "largest_difference": {},
        "test": {},
    }


def _write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "export.json").write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


class _Tested(NamedTuple):
    """The test split of a run, N texts. counts: int [C], training examples of each class or label."""

    texts: list[str]
    targets: Targets
    counts: np.ndarray
    bounds: Bounds

    def scores(self, model: Classifier, logits: np.ndarray) -> dict[str, float]:
        """Returns the scores that are shown, of logits [N, C]."""
        model.scoring.counts, model.scoring.bounds = self.counts, self.bounds
        measured = model.scoring.measure(logits, self.targets)
        wanted = SCORES[model.scoring.__class__ is MultiLabelScoring]
        return {"texts": len(self.texts)} | {name: measured[name] for name in wanted if name in measured}


def _test_split(run: Path, config: dict, ours: Predictor) -> _Tested:
    """Returns the test split, its texts read from the source of the run again.

    Raises UserError where the source cannot be read or is not what it was.
    """
    if not (run / "splits.npz").is_file():
        raise UserError(f"{run} has no splits.npz, which says what it was tested on")
    source, rows = build(config["data"]), np.load(run / "splits.npz")["test"]
    source.prepare()
    loaded = source.load()
    split = loaded.get("test", loaded["train"])
    split = split.filter(np.isin(split.rows, rows))
    truth = pq.read_table(run / "predictions.parquet")["labels" if split.task == "multi_label" else "label"]
    targets, before = (Vocabulary(ours.labels).encode(labels) for labels in (split.labels, truth))
    same = before.shape == targets.shape and not (before != targets).sum()
    if not same:
        raise UserError(f"{split.file} is no longer what {run} was tested on")
    counts = pd.read_csv(run / "balance.csv", usecols=["count"])["count"].to_numpy()
    bounds = build(config["buckets"]) if "buckets" in config else DEFAULT_BOUNDS
    return _Tested(split.texts.to_pylist(), targets, counts, bounds)


def _random_tokens(ours: Predictor, longest: int) -> list[np.ndarray]:
    """Returns token ids without meaning, of every length up to `longest`."""
    rng, size = np.random.default_rng(0), ours.tokenizer.get_vocab_size()
    return [rng.integers(0, size, length, np.int32) for length in range(1, longest + 1)]


def _difference(ours: Predictor, exported: Predictor, tokens: list[np.ndarray]) -> float:
    """Returns by how much a logit differs at most, of texts from the shortest to the longest, alone and in batches."""
    ranked = np.argsort([len(ids) for ids in tokens], kind="stable")
    some = [tokens[row] for row in ranked[np.linspace(0, len(ranked) - 1, CHECKED).astype(int)]]
    largest = 0.0
    for size in (1, 1024):
        one, other = (replace(each, max_tokens=size).predict(some) for each in (ours, exported))
        largest = max(largest, float(np.nan_to_num(np.abs(one - other), nan=np.inf).max()))
    return largest


def _show(console: Console, content: dict[str, Any], size: int) -> None:
    differences = ", ".join(f"{name} {value:.2g}" for name, value in content["largest_difference"].items())
    console.print(f"largest difference of a logit from the run's: {differences}")
    console.print(f"{size / 1e6:,.1f} MB in {content['precision']}, {len(content['labels'])} labels")
    scores = content["test"]
    if not scores:
        return
    table = Table("", *scores, box=SIMPLE_HEAD, title=f"test split, {scores['fp32']['texts']:,} texts")
    if "int8" in scores:
        table.add_column("change with int8")
    for name, value in scores["fp32"].items():
        if name != "texts":
            cost = [f"{scores['int8'][name] - value:+.4f}"] if "int8" in scores else []
            table.add_row(name.replace("_", " "), *(f"{each[name]:.4f}" for each in scores.values()), *cost)
    console.print(table)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps what the exporters say of their own workings from the terminal."""
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)
