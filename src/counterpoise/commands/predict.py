"""Predicts the classes of new texts: `python -m counterpoise.predict RUN FILE --text COLUMN`.

RUN is a finished run, or a folder that `counterpoise.export` wrote. In Python:

    predictor = load(Path("outputs/..."))
    logits = predictor(["a text", "another"])
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.progress import MofNCompleteColumn, Progress
from scipy.special import softmax
from tokenizers import Tokenizer
from torch import Tensor

from counterpoise.commands.saved_run import PACKAGE, allowed_packages, build, load_run, read_config
from counterpoise.data.arrow_columns import Column, format_rows, is_text
from counterpoise.data.batching import pad_sequences
from counterpoise.data.readers import read_columns, suffix_of
from counterpoise.data.table import row_ids
from counterpoise.data.token_store import TEXTS_PER_CHUNK, load_tokenizer
from counterpoise.errors import UserError
from counterpoise.metrics.calibration import Adjustment, read_adjustment
from counterpoise.metrics.costs import least_cost, read_costs
from counterpoise.metrics.scoring import MultiLabelScoring
from counterpoise.metrics.thresholds import Decision, read_thresholds
from counterpoise.model.module import Classifier
from counterpoise.training.predictions import multilabel_predictions_writer, predictions_writer

log = logging.getLogger(__name__)

TEXTS = 65_536
"""Texts that are tokenised, sorted by length and predicted together at most."""
LOGITS = 2**24
"""Logits that are held at a time at most, about."""
TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Tokens of a batch at most, padding included. On a CPU larger batches leave its caches."""
PRECISIONS = ("auto", "fp32", "bf16")
ALLOW_HELP = "also build classes of this package from the run's config.yaml (default: the project in this folder)"
READING = {"delimiter": None, "quote": '"', "skip_rows_after_header": 0}
"""How a CSV is read unless told."""


@dataclass
class Predictor:
    """A trained model and what predicting with it needs.

    labels: C names. tokenizer: cuts texts at the length that the model takes, and does not pad. pad: the token id of
    padding. model: returns logits, float32 [B, C], of input_ids and attention_mask, int64 [B, T]. tokens: of a batch at
    most, padding included. decision, thresholds: how logits become labels where a text has any number of them, and
    float64 [C]; None where it has one class.
    """

    labels: list[str]
    tokenizer: Tokenizer
    pad: int
    model: Callable[[Tensor, Tensor], Tensor]
    tokens: int
    decision: Decision | None = None
    thresholds: np.ndarray | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns logits, float32 [N, C], in the order of the texts."""
        return self.predict(self.tokenise(texts))

    def in_parts(self, texts: pa.ChunkedArray) -> Iterator[np.ndarray]:
        """Yields the logits of so many texts at a time as fit into memory, in their order, and shows progress.

        texts: of a type that can be cast to large_string. While a part is predicted the next one is tokenised.
        """
        size = max(1, min(TEXTS, LOGITS // max(1, len(self.labels))))
        columns = (*Progress.get_default_columns(), MofNCompleteColumn())

        def tokens_of(start: int) -> list[np.ndarray]:
            return self.tokenise(_strings(texts[start : start + size]).to_pylist())

        with Progress(*columns, transient=True) as progress, ThreadPoolExecutor(1) as pool:
            task = progress.add_task("predicting", total=len(texts))
            ahead = pool.submit(tokens_of, 0)
            for start in range(0, len(texts), size):
                tokens, ahead = ahead.result(), pool.submit(tokens_of, start + size)
                yield self.predict(tokens, lambda texts: progress.advance(task, texts))

    def tokenise(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the token ids of each text, special tokens included."""
        batches = (texts[start : start + TEXTS_PER_CHUNK] for start in range(0, len(texts), TEXTS_PER_CHUNK))
        encodings = (encoding for batch in batches for encoding in self.tokenizer.encode_batch_fast(batch))
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def predict(self, tokens: Sequence[np.ndarray], done: Callable[[int], object] = lambda texts: None) -> np.ndarray:
        """Returns logits, float32 [N, C], of token ids. `done` is told of each batch how many texts it had."""
        outputs = [torch.empty(0, len(self.labels))]
        lengths = np.array([len(ids) for ids in tokens], np.int64)
        order = np.argsort(-lengths, kind="stable")
        first = 0
        while first < len(order):
            rows = order[first : first + max(1, self.tokens // max(1, lengths[order[first]]))]
            ids, mask = pad_sequences([tokens[row] for row in rows], self.pad)
            outputs.append(self.model(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))))
            first += len(rows)
            done(len(rows))
        logits = np.empty((len(order), len(self.labels)), np.float32)
        # Copied once: to wait for each batch would leave a GPU idle.
        logits[order] = torch.cat([outputs[0].to(outputs[-1].device), *outputs[1:]]).cpu().numpy()
        return logits

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Returns which labels each text gets, bool [N, C], where it may have any number of them."""
        if self.decision is None or self.thresholds is None:
            raise ValueError("a text has one class here: the one with the largest logit")
        return self.decision.decide(logits, self.thresholds)


def load(folder: Path, device: str = "cpu", precision: str = "auto", packages: Sequence[str] = (PACKAGE,)) -> Predictor:
    """Returns the predictor of a run folder or of an exported one.

    device: "cpu" or "cuda", for an exported model one that its ONNX Runtime knows. precision: of a run's model, "fp32",
    "bf16" (under autocast, as in training), or "auto": bf16 on a GPU with bfloat16 units. Raises UserError.
    """
    if (folder / "export.json").is_file():
        if precision == "bf16":
            raise UserError(f"--precision bf16: {folder} is an exported model, whose precision is as it was exported")
        return _exported(folder, device)
    model, config = load_run(folder, packages)
    return predictor(model, config, device, precision, packages)


def predictor(
    model: Classifier,
    config: dict,
    device: str = "cpu",
    precision: str = "fp32",
    packages: Sequence[str] = (PACKAGE,),
) -> Predictor:
    """Returns the predictor of what `load_run` returned; see `load`."""
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {' '.join(str(error).split())}") from error
    kind = model.device.type
    native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    halved = precision == "bf16" or (precision == "auto" and native)

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=halved):
            return model({"input_ids": ids.to(device), "attention_mask": mask.to(device)}).float()

    encoder = build(config["encoder"], packages)
    tokenizer = load_tokenizer(encoder.locate(), encoder.revision)
    backend, scoring = tokenizer.backend_tokenizer, model.scoring
    backend.enable_truncation(encoder.max_length)
    backend.no_padding()
    found = Predictor(model.labels, backend, tokenizer.pad_token_id or 0, logits, _tokens(kind))
    if isinstance(scoring, MultiLabelScoring):
        found.decision, found.thresholds = scoring.decision, scoring.thresholds.cpu().numpy()
    return found


def reading(config: dict) -> dict[str, Any]:
    """Returns how the training file of a run was read, and the suffix that names its format."""
    data = config["data"]
    how = {key: data.get(key, default) for key, default in READING.items()}
    return how | {"suffix": suffix_of(Path(str(data.get("train") or "")))}


def required(module: str) -> Any:
    """Returns an imported module that the package does not depend on; raises UserError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"exported models need {module.split('.')[0]}: pip install onnx onnxruntime onnxscript"
        ) from error


def main() -> None:
    """Reads the command line, writes a Parquet file with a prediction for each row of the texts."""
    parser = argparse.ArgumentParser(
        prog="counterpoise.predict", description="Predicts the classes of new texts, writes a Parquet file of them."
    )
    parser.add_argument("run", type=Path, help="folder of a finished run, or of an exported one")
    parser.add_argument("file", type=Path, help="texts: .csv .tsv .jsonl (plain or .gz) or .parquet")
    parser.add_argument("--text", default="text", help="column of the text (default: text)")
    parser.add_argument("--id", help="column that names the rows (default: their number)")
    for key, option, kind, what in (
        ("delimiter", "--delimiter", _character, "between fields"),
        ("quote", "--quote", _character, "around fields, or '' where there is none"),
        ("skip_rows_after_header", "--skip-rows", int, "rows after the header that are no texts"),
    ):
        as_trained = "of a CSV (default: as in the run's training file, for a file with the same suffix)"
        parser.add_argument(option, dest=key, type=kind, default=argparse.SUPPRESS, help=f"{what}, {as_trained}")
    parser.add_argument("--thresholds", type=Path, help="JSON, label to threshold, instead of those of the run")
    parser.add_argument("--calibrated", action="store_true", help="write the run's calibrated probabilities")
    parser.add_argument("--costs", type=Path, help="CSV, what mistakes cost: adds the decision of the least cost")
    parser.add_argument("--output", type=Path, default=Path("predictions.parquet"), help="what to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto: bf16 on a GPU that has it, fp32 elsewhere"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help=ALLOW_HELP)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")

    if arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a folder; it must be the file to write")
    if arguments.output.resolve() == arguments.file.resolve():
        raise UserError(f"--output {arguments.output} is the file of the texts: name another one to write")
    how = _reading(arguments.run, arguments.file, {key: vars(arguments)[key] for key in READING if key in arguments})
    table = read_columns(arguments.file, arguments.text, [arguments.id] if arguments.id else [], **how)
    _require_text(table[arguments.text], f"{arguments.file}: column {arguments.text!r} (--text)")
    given = _names(table[arguments.id], f"{arguments.file}: column {arguments.id!r} (--id)") if arguments.id else None
    model = load(arguments.run, arguments.device, arguments.precision, allowed_packages(arguments.allow))
    if arguments.thresholds:
        if model.decision is None:
            raise UserError(f"--thresholds: {arguments.run} predicts one class a text, the most probable")
        model.thresholds = read_thresholds(arguments.thresholds, model.labels)
    if arguments.costs and model.decision is not None:
        raise UserError(f"--costs: {arguments.run} predicts any number of labels a text, and costs are of one class")
    costs = read_costs(arguments.costs, model.labels) if arguments.costs else None
    adjustment = _adjustment(arguments.run, model.labels, arguments.calibrated, costs is not None)

    writer = (
        predictions_writer(arguments.output, model.labels, least_cost=costs is not None)
        if model.decision is None
        else multilabel_predictions_writer(arguments.output, model.labels)
    )
    written = 0
    with writer as write:
        for logits in model.in_parts(table[arguments.text]):
            rows = range(written, written + len(logits))
            names = [str(row + 1) for row in rows] if given is None else given[rows.start : rows.stop].to_pylist()
            # Decisions are those of the raw logits: the strategy trained them, and thresholds were tuned on them.
            adjusted = logits if adjustment is None else adjustment(logits)
            shown = adjusted if arguments.calibrated else logits
            if model.decision is not None:
                write(names, None, shown, model.decide(logits))
            else:
                cheapest = None if costs is None else least_cost(softmax(adjusted.astype(np.float64), axis=1), costs)
                write(names, None, logits, shown, cheapest)
            written = rows.stop
    print(f"{written:,} predictions in {arguments.output}")


def _exported(folder: Path, device: str) -> Predictor:
    runtime = required("onnxruntime")
    content = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = [f"{name}ExecutionProvider" for name in (device.partition(":")[0].upper(), "CPU")]
    providers = [name for name in dict.fromkeys(wanted) if name in runtime.get_available_providers()]
    if wanted[0] not in providers:
        log.warning("--device %s: this ONNX Runtime knows the CPU alone; onnxruntime-gpu knows GPUs", device)
    session = runtime.InferenceSession(folder / "model.onnx", options, providers=providers)

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        outputs = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        return torch.from_numpy(outputs[0])

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    kind = "cpu" if providers[0].startswith("CPU") else "cuda"
    found = Predictor(content["labels"], tokenizer, content["pad_token_id"], logits, _tokens(kind))
    if content["decision"] is not None:
        found.decision = Decision(**content["decision"])
        found.thresholds = read_thresholds(folder / "thresholds.json", found.labels)
    return found


def _tokens(device: str) -> int:
    return TOKENS.get(device, TOKENS["cpu"])


def _adjustment(run: Path, labels: list[str], calibrated: bool, costs: bool) -> Adjustment | None:
    """Returns what calibrates the run's probabilities, where it is asked for or decisions at the least cost want it."""
    path = run / "calibration.json"
    if calibrated and not path.is_file():
        raise UserError(f"--calibrated: {run} has no calibration.json: its probabilities were not calibrated")
    if costs and not path.is_file():
        log.warning("%s has no calibration.json: costs are weighed by its raw probabilities", run)
    return read_adjustment(path, labels) if (calibrated or costs) and path.is_file() else None


def _character(option: str) -> str | None:
    character = option.replace("\\t", "\t")
    if len(character) > 1 or not character.isascii():
        raise UserError(f"{option!r} is no delimiter or quote: it must be one ASCII character")
    return character or None


def _reading(folder: Path, file: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Returns how to read a CSV: as told, and else as the run's training file, where that has the same suffix."""
    exported = folder / "export.json"
    if exported.is_file():
        before = json.loads(exported.read_text(encoding="utf-8")).get("reading", {})
    else:
        before = reading(read_config(folder))
    if before.get("suffix") != suffix_of(file):
        return told
    differs = {key: before[key] for key, usual in READING.items() if before.get(key, usual) != usual}
    alike = {key: value for key, value in differs.items() if key not in told}
    if alike:
        log.info("%s is read as the texts of the run were: %s", file, ", ".join(f"{k}={v!r}" for k, v in alike.items()))
    return told | alike


def _require_text(column: pa.ChunkedArray, what: str) -> None:
    """Raises UserError before the first prediction where a value, also of the last rows, is no text."""
    if not is_text(column.type):
        raise UserError(f"{what} holds {column.type}, not text")
    try:
        for chunk in column.chunks:
            chunk.cast(pa.large_string())
    except pa.ArrowException as error:
        raise UserError(f"{what} is not text in UTF-8") from error


def _names(column: pa.ChunkedArray, what: str) -> Column:
    """Returns the ids of the rows, as in training; raises UserError."""
    names, bad = row_ids(column, what)
    if bad.any():
        raise UserError(f"{what} is not in UTF-8 in {format_rows(np.flatnonzero(bad) + 1)}")
    return names


def _strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(column.cast(pa.large_string()), "")
