"""Predict texts with a finished run, an ensemble or an exported model; the last without importing PyTorch.

predictor = load(Path("outputs/..."))
logits = predictor(["a text", "another"])
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import MofNCompleteColumn
from tokenizers import Tokenizer

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.commands.run_config import read_ensemble
from counterpoise.commands.trusted_classes import PACKAGE, build
from counterpoise.data.arrow_columns import is_blank_text
from counterpoise.data.padding import pad_sequences
from counterpoise.data.text_columns import shown_columns
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError
from counterpoise.metrics.thresholds import Decision, read_thresholds
from counterpoise.model.ensemble import combine
from counterpoise.saved_files import reading
from counterpoise.terminal import progress

if TYPE_CHECKING:
    from counterpoise.training.baseline import FittedBaseline

MAX_TEXTS = 65_536
"""Texts that are tokenised, sorted by length and predicted together."""
MAX_LOGITS = 2**24
"""Approximate number of logits in memory at a time."""
MAX_TOKENS = {"cpu": 1024, "cuda": 65_536}
"""Tokens per batch, padding included. On a CPU, larger batches do not fit into its caches."""
TEXTS_PER_CHUNK = 4096
"""Texts that are tokenised, or given to a linear model, at a time: the features of long texts need much memory."""


class Block(NamedTuple):
    """Predictions of consecutive texts.

    Args:
        logits: float32 [N, C].
        reasons: string [N]: why a text has no prediction, null if it has one.
    """

    logits: np.ndarray
    reasons: pa.Array


@dataclass(kw_only=True)
class BlockPredictor:
    """A model that predicts a column of texts in blocks, in two steps that overlap.

    Args:
        labels: Names of the C classes or labels.
        decision: Decision rule of a multi-label model; None for a single-label one.
        thresholds: Probability thresholds of a multi-label model, float64 [C].
    """

    labels: list[str]
    decision: Decision | None = None
    thresholds: np.ndarray | None = None

    @property
    def columns(self) -> int:
        """Number of columns of a text. Those of several are joined, see `data.text_columns`."""
        return 1

    def prepare(self, texts: Sequence[str]) -> Any:
        """Return what `finish` needs of the texts, such as their tokens."""
        raise NotImplementedError

    def finish(self, prepared: Any, done: Callable[[int], object]) -> np.ndarray:
        """Return logits, float32 [N, C], of prepared texts; `done` is called with the number of texts of each batch."""
        raise NotImplementedError

    def reasons(self, texts: pa.ChunkedArray, prepared: Any) -> pa.Array:
        """Return why each text has no prediction, string [N], null if it has one."""
        raise NotImplementedError

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return logits, float32 [N, C], in the order of the texts."""
        return self.finish(self.prepare(texts), lambda texts: None)

    def predict_blocks(self, texts: pa.ChunkedArray) -> Iterator[Block]:
        """Yield the predictions of blocks of texts, in order, and show progress.

        Texts that are blank, or of which the tokenizer knows no token, have a reason instead of a prediction. The next
        block is tokenised while one is predicted.

        Args:
            texts: N values that can be cast to large_string.
        """
        size = max(1, min(MAX_TEXTS, MAX_LOGITS // max(1, len(self.labels))))

        def prepare(start: int) -> tuple[Any, pa.Array]:
            block = as_strings(texts[start : start + size])
            prepared = self.prepare(block.to_pylist())
            return prepared, self.reasons(block, prepared)

        with progress(MofNCompleteColumn()) as display, ThreadPoolExecutor(1) as pool:
            task = display.add_task("predicting", total=len(texts))
            ahead = pool.submit(prepare, 0)
            for start in range(0, len(texts), size):
                (prepared, reasons), ahead = ahead.result(), pool.submit(prepare, start + size)
                yield Block(self.finish(prepared, lambda texts: display.advance(task, texts)), reasons)

    def check_columns(self, columns: Sequence[str], run: Path) -> None:
        """Raise UserError unless the model was trained on texts of as many columns."""
        if len(columns) != self.columns:
            raise UserError(
                f"--text: {run} was trained on texts of {self.columns} column{'s' * (self.columns > 1)}, not of "
                f"{len(columns)} ({shown_columns(columns)}): name as many, separated by commas"
            )

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the predicted labels of each text, bool [N, C]. Multi-label only."""
        if self.decision is None or self.thresholds is None:
            raise ValueError(
                "a single-label model has no decision rule: its prediction is the class with the largest logit"
            )
        return self.decision.decide(logits, self.thresholds)


@dataclass(kw_only=True)
class Predictor(BlockPredictor):
    """A trained encoder and head that predict texts.

    Args:
        tokenizer: Tokenizer, prepared for the tokenisation.
        pad: Token id of padding.
        model: Returns logits [B, C] of input_ids and attention_mask, int64 [B, T].
        max_tokens: Largest number of tokens per batch, padding included.
        tokenisation: What is read of each text. Defaults to the tokens that the tokenizer returns.
        gather: Concatenates the logits of batches to float32 [N, C]. A GPU's logits are copied here, at once, because
            waiting for each batch would leave it idle.
    """

    tokenizer: Tokenizer
    pad: int
    model: Callable[[np.ndarray, np.ndarray], Any]
    max_tokens: int
    tokenisation: Tokenisation = field(default_factory=Tokenisation)
    gather: Callable[[Sequence[Any]], np.ndarray] = np.concatenate

    @property
    def columns(self) -> int:
        """Number of columns of a text."""
        return self.tokenisation.columns

    def prepare(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, special tokens included."""
        return self.tokenise(texts)

    def finish(self, prepared: list[np.ndarray], done: Callable[[int], object]) -> np.ndarray:
        """Return logits, float32 [N, C], of token ids. See `predict`."""
        return self.predict(prepared, done)

    def tokenise(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, special tokens included."""
        batches = (texts[start : start + TEXTS_PER_CHUNK] for start in range(0, len(texts), TEXTS_PER_CHUNK))
        read = (ids for batch in batches for ids in self.tokenisation.token_ids(self.tokenizer, batch))
        return [np.array(ids, np.int32) for ids in read]

    @property
    def readable_length(self) -> int:
        """Largest number of tokens of a text that is read whole."""
        return self.tokenisation.readable_length(self.tokenizer)

    @cached_property
    def _uninformative(self) -> np.ndarray:
        """Token ids that say nothing about a text: special tokens and the unknown token."""
        special = {number for number, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        unknown = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        return np.array([*special, *([] if unknown is None else [unknown])], np.int64)

    def reasons(self, texts: pa.ChunkedArray, prepared: Sequence[np.ndarray]) -> pa.Array:
        """Return why each text has no prediction, string [N], null if it has one."""
        ends = np.cumsum([0, *map(len, prepared)])
        known = ~np.isin(np.concatenate([np.empty(0, np.int32), *prepared]), self._uninformative)
        reasons = np.full(len(prepared), None, object)
        reasons[np.diff(np.concatenate([[0], np.cumsum(known)])[ends]) == 0] = "no known token"
        reasons[is_blank_text(texts)] = "blank text"
        return pa.array(reasons, pa.string())

    def predict(self, tokens: Sequence[np.ndarray], done: Callable[[int], object] = lambda texts: None) -> np.ndarray:
        """Return logits, float32 [N, C], of token ids; zeros for texts without tokens.

        `done` is called with the number of texts of each batch.
        """
        logits = np.zeros((len(tokens), len(self.labels)), np.float32)
        lengths = np.array([len(ids) for ids in tokens], np.int64)
        order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        outputs, first = [], 0
        while first < len(order):
            rows = order[first : first + max(1, self.max_tokens // max(1, lengths[order[first]]))]
            ids, mask = pad_sequences([tokens[row] for row in rows], self.pad)
            outputs.append(self.model(ids, mask.astype(np.int64)))
            first += len(rows)
            done(len(rows))
        if outputs:
            logits[order] = self.gather(outputs)
        return logits


@dataclass(kw_only=True)
class EnsemblePredictor(BlockPredictor):
    """Several models, whose weighted logits are added.

    Args:
        members: The models.
        baseline: A linear model besides; None: none.
        factors: Factor of the logits of each model, and of the baseline if there is one. See `ensemble.factors`.
    """

    members: list[BlockPredictor]
    baseline: "FittedBaseline | None"
    factors: np.ndarray

    @property
    def columns(self) -> int:
        """Number of columns of a text."""
        return self.members[0].columns

    def prepare(self, texts: Sequence[str]) -> tuple[Sequence[str], list[Any]]:
        """Return the texts, and what each model needs of them."""
        return texts, [member.prepare(texts) for member in self.members]

    def finish(self, prepared: tuple[Sequence[str], list[Any]], done: Callable[[int], object]) -> np.ndarray:
        """Return the weighted sum of the logits, float32 [N, C]."""
        texts, own = prepared
        *first, last = zip(self.members, own, strict=True)
        logits = [member.finish(tokens, lambda texts: None) for member, tokens in first]
        logits.append(last[0].finish(last[1], done))
        if self.baseline is not None:
            starts = range(0, len(texts), TEXTS_PER_CHUNK)
            blocks = [self.baseline.logits(texts[start : start + TEXTS_PER_CHUNK]) for start in starts]
            linear = np.concatenate([np.empty((0, len(self.labels)), np.float32), *blocks])
            logits.append(linear)
        return combine(logits, self.factors)

    def reasons(self, texts: pa.ChunkedArray, prepared: tuple[Sequence[str], list[Any]]) -> pa.Array:
        """Return why a text has no prediction, by the first model."""
        return self.members[0].reasons(texts, prepared[1][0])


def load(
    folder: Path, device: str = "cpu", precision: str = "auto", packages: Sequence[str] = (PACKAGE,)
) -> BlockPredictor:
    """Return the predictor of a run, of an ensemble, or of an exported model.

    Args:
        folder: Run folder, or a folder that `counterpoise.ensemble` or `counterpoise.export` wrote.
        device: "cpu", "cuda", or "auto": a GPU if there is one; for an exported model a device that its ONNX Runtime
            supports.
        precision: Precision of a run's model: "fp32", "bf16" (autocast, as in training), or "auto": bf16 on a GPU with
            bfloat16 units, otherwise fp32.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.

    Raises:
        UserError: The folder is neither, or its parts do not fit each other.
    """
    if (folder / ENSEMBLE_FILE).is_file():
        with reading(folder):
            return _load_ensemble(folder, device, precision, packages)
    if (folder / "export.json").is_file():
        if precision == "bf16":
            raise UserError(f"--precision bf16: {folder} is an exported model, whose precision is fixed")
        from counterpoise.commands.exported_model import load_exported

        return load_exported(folder, device)
    # These imports take seconds, because they import PyTorch, which exported models do not need.
    from counterpoise.commands.run_predictor import make_predictor
    from counterpoise.commands.saved_run import load_run

    model, config = load_run(folder, packages)
    return make_predictor(folder, model, config, device, precision, packages)


def as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a text column as large_string with empty strings for nulls."""
    return pc.fill_null(column.cast(pa.large_string()), "")


def _load_ensemble(folder: Path, device: str, precision: str, packages: Sequence[str]) -> EnsemblePredictor:
    """Return the predictor of an ensemble, whose members are runs or exported models."""
    content = read_ensemble(folder)
    members = [load(folder / name, device, precision, packages) for name in content["members"]]
    labels, found = content["labels"], None
    if any(member.labels != labels for member in members):
        raise UserError(f"{folder}: the labels of {ENSEMBLE_FILE} and of the models differ")
    if content["baseline"] is not None:
        source = build(content["baseline"], packages)
        if not hasattr(source, "load"):
            raise UserError(f"{folder}: the baseline of {ENSEMBLE_FILE} cannot be loaded")
        found = source.load(folder / "baseline")
        if found.logits([""]).shape != (1, len(labels)):
            raise UserError(f"{folder}: the linear model has another number of classes than {ENSEMBLE_FILE}")
    factors = np.array(content["factors"], np.float64)
    if len(factors) != len(members) + (found is not None):
        raise UserError(f"{folder}: {ENSEMBLE_FILE} has {len(factors)} factors for other models")
    ensemble = EnsemblePredictor(labels=labels, members=members, baseline=found, factors=factors)
    if members[0].decision is not None:
        ensemble.decision = members[0].decision
        ensemble.thresholds = read_thresholds(folder / "thresholds.json", labels)
    return ensemble
