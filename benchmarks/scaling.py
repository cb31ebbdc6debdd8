"""Time and memory by number of rows, number of labels and length of texts, with a plot of each.

`python benchmarks/scaling.py [rows|labels|lengths] [--json FOLDER] [--picture FOLDER]` (default: all three).

rows: class index, class-balanced draw of an epoch and its order by length, for 500 classes; tokenising texts of about
ten words, and opening the finished token store again (which reads the texts to verify that they are the same).

labels: forward and backward pass of each loss on 256 texts, on one thread; evaluation of 10,000 multi-label texts
(about 4 labels per text) with tuned thresholds, and of 10,000 single-label texts; calibration of half of the texts,
fitted on the other half.

lengths: a training step of MiniLM on 2,048 tokens without padding, and the share of attention, which is measured
separately for one layer.

Each point is measured in a new process: the median time of the repeats that fit into a second, and the peak memory
beyond the imports, including the inputs.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator
from measure import peak_memory, report, timed
from scipy.sparse import csr_matrix
from torch.nn import functional as F

from counterpoise import balance
from counterpoise.analysis import plot_style as style
from counterpoise.analysis.plot_style import COLOURS, FAINT, MUTED, PAPER
from counterpoise.balance import ClassIndex, InverseFrequency, PowerSampler, Strategy
from counterpoise.data.batching import BucketBatchSampler
from counterpoise.data.token_store import load_tokenizer, tokenise
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.metrics import calibration
from counterpoise.metrics.buckets import DEFAULT_BOUNDS
from counterpoise.metrics.scoring import MultiLabelScoring, SingleLabelScoring
from counterpoise.metrics.thresholds import Decision

ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
TEXTS = (10_000, 30_000, 100_000, 300_000)
LABELS = (52, 200, 600, 2_000, 5_000)
LENGTHS = (16, 32, 64, 128, 256, 512)
CLASSES, BATCH, SCORED, TOKENS = 500, 256, 10_000, 2_048
SINGLE, MULTI = (
    ("CrossEntropy", "SoftmaxFocal", "LogitAdjusted", "LDAM"),
    ("BinaryCrossEntropy", "Focal", "Asymmetric", "DistributionBalanced"),
)
OF_ROWS = ("class index", "draw of an epoch", "order by length", "tokenise", "open again")
OF_LABELS = ("multi-label", "single-label", "calibration", "losses")
HUES = {
    **{name: hue for names in (SINGLE, MULTI, OF_ROWS, OF_LABELS) for name, hue in zip(names, COLOURS, strict=False)},
    **{"index, draw, order": COLOURS[0], "MiniLM": COLOURS[0], "measured": COLOURS[0], "arithmetic": MUTED},
}
SECONDS, MEMORY = "seconds", "MB beyond the imports"
Row = dict[str, Any]
Line = tuple[Sequence[float], Sequence[float]]


def main() -> None:
    """Read the command line, measure, print the tables, and write JSON and plots."""
    groups: dict[str, tuple[Callable[[], list[Row]], Callable[[list[Row]], Figure]]] = {
        "rows": (measure_rows, draw_rows),
        "labels": (measure_labels, draw_labels),
        "lengths": (measure_lengths, draw_lengths),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*groups, []], help="what to vary (default: all three)")
    parser.add_argument("--json", type=Path, help="folder for scaling_NAME.json")
    parser.add_argument("--picture", type=Path, help="folder for scaling_NAME.png")
    options = parser.parse_args()
    for name in options.what or groups:
        measured, drawn = groups[name]
        rows = measured()
        for folder in filter(None, (options.json, options.picture)):
            folder.mkdir(parents=True, exist_ok=True)
        report(f"Scaling with {name}", rows, options.json and options.json / f"scaling_{name}.json")
        if options.picture:
            style.save(drawn(rows), options.picture / f"scaling_{name}.png")


def measure_rows() -> list[Row]:
    """Return the measurements by number of rows."""
    points: list[Row] = []
    for function, sizes in ((epoch, ROWS), (token_store, TEXTS)):
        for size in sizes:
            seconds, peak = peak_memory(function, size)
            points += _points("rows", size, seconds, peak)
    return points


def _points(variable: str, number: int, seconds: Mapping[str, float], peak: int) -> list[Row]:
    return [{"what": what, variable: number, SECONDS: each, MEMORY: peak / 1e6} for what, each in seconds.items()]


def epoch(rows: int) -> dict[str, float]:
    """Return the seconds of each step from classes to the batches of an epoch."""
    rng = np.random.default_rng(0)
    targets = rng.choice(CLASSES, rows, p=zipf(CLASSES))
    lengths, sampler = rng.integers(5, 65, rows), PowerSampler(1.0)
    index = ClassIndex.from_targets(targets, CLASSES)
    drawn = sampler.draw(index, rng)
    return {
        "class index": median(lambda: ClassIndex.from_targets(targets, CLASSES)),
        "draw of an epoch": median(lambda: sampler.draw(index, rng)),
        "order by length": median(lambda: next(iter(BucketBatchSampler(lambda *_: drawn.copy(), rows, lengths, 32)))),
    }


def token_store(rows: int) -> dict[str, float]:
    """Return the seconds to tokenise texts, and to open the finished token store."""
    words = np.array([f"{a}{b}" for a in ("market", "oil", "rate", "share", "trade") for b in ("", "s", "er", "ing")])
    rng = np.random.default_rng(0)
    texts = pa.chunked_array([[" ".join(row) for row in words[rng.integers(len(words), size=(rows, 10))].tolist()]])
    tokenizer = load_tokenizer(encoder().locate())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COUNTERPOISE_CACHE"] = folder  # affects only this process
        start = time.perf_counter()
        tokenise(texts, tokenizer, Tokenisation(64), f"{rows:,} texts")
        first = time.perf_counter() - start
        return {"tokenise": first, "open again": median(lambda: tokenise(texts, tokenizer, Tokenisation(64), "texts"))}


def measure_labels() -> list[Row]:
    """Return the measurements by number of labels."""
    points: list[Row] = []
    for function in (losses, multi_label_evaluation, single_label_evaluation, calibrate):
        for labels in LABELS:
            seconds, peak = peak_memory(function, labels)
            points += _points("labels", labels, seconds, peak)
    return points


def losses(labels: int) -> dict[str, float]:
    """Return the seconds of forward and backward pass of each loss on a batch of logits."""
    torch.set_num_threads(1)  # threads cost more than they save in milliseconds
    targets = label_sets(20 * labels, labels)
    classes = np.concatenate([np.arange(labels), targets.indices])
    found = {}
    for names, given, truth in (
        (MULTI, targets, torch.from_numpy(targets[:BATCH].toarray().astype(np.float32))),
        (SINGLE, classes, torch.from_numpy(classes[:BATCH] if labels >= BATCH else np.resize(classes, BATCH))),
    ):
        correction = Strategy(PowerSampler(0.5), InverseFrequency(0.5)).correction(
            [f"label {c}" for c in range(labels)], ClassIndex.from_targets(given, labels)
        )
        for name in names:
            loss, logits = getattr(balance, name)(correction), torch.randn(BATCH, labels, requires_grad=True)
            found[name] = median(lambda loss=loss, logits=logits, truth=truth: loss(logits, truth).backward())
    return found


def multi_label_evaluation(labels: int) -> dict[str, float]:
    """Return the seconds of an evaluation of multi-label texts."""
    torch.set_num_threads(1)
    targets = label_sets(SCORED, labels)
    logits, counts = informative_logits(targets), np.asarray(targets.sum(axis=0)).ravel()
    scoring = MultiLabelScoring([f"label {c}" for c in range(labels)], counts, DEFAULT_BOUNDS, Decision())

    def evaluation() -> None:
        scoring.reset()
        for start in range(0, SCORED, BATCH):
            part = slice(start, start + BATCH)
            batch_targets = torch.from_numpy(targets[part].toarray().astype(np.float32))
            scoring.update(torch.from_numpy(logits[part].copy()), batch_targets)
        scoring.scores(tune=True)

    return {"multi-label": median(evaluation)}


def single_label_evaluation(labels: int) -> dict[str, float]:
    """Return the seconds of an evaluation of single-label texts."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    classes = torch.from_numpy(rng.choice(labels, SCORED, p=zipf(labels)))
    logits = torch.randn(SCORED, labels)
    scoring = SingleLabelScoring(np.bincount(classes, minlength=labels) + 1, DEFAULT_BOUNDS)

    def evaluation() -> None:
        scoring.reset()
        for part in range(0, SCORED, BATCH):
            scoring.update(logits[part : part + BATCH], classes[part : part + BATCH])
        scoring.scores()

    return {"single-label": median(evaluation)}


def calibrate(labels: int) -> dict[str, float]:
    """Return the seconds of the calibration of a multi-label model."""
    targets, half = label_sets(SCORED, labels), SCORED // 2
    logits, counts = informative_logits(targets), np.asarray(targets.sum(axis=0)).ravel()
    names, shift = [f"label {c}" for c in range(labels)], np.linspace(-1, 1, labels)
    splits = [(logits[part], targets[part]) for part in (slice(half), slice(half, None))]
    measured = partial(calibration.measure, names, counts, splits[0], splits[1], calibration.PriorShift("exact", shift))
    return {"calibration": median(measured)}


def measure_lengths() -> list[Row]:
    """Return the measurements by length of texts."""
    points = []
    for length in LENGTHS:
        (step, attention), peak = peak_memory(training_step, length)
        points.append(
            {"tokens per text": length, "texts": TOKENS // length, SECONDS: step, "tokens/s": TOKENS / step,
             "attention": attention / step, MEMORY: peak / 1e6}
        )  # fmt: skip
    return points


def training_step(length: int) -> tuple[float, float]:
    """Return the seconds of a training step and of its attention."""
    model, rng = encoder().load().train(), torch.Generator().manual_seed(0)
    head = torch.nn.Linear(model.size, CLASSES)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], 1e-5, fused=True)
    texts, settings = TOKENS // length, model.backbone.config
    ids = torch.randint(1000, 20_000, (texts, length), generator=rng)
    mask, classes = torch.ones_like(ids), torch.randint(CLASSES, (texts,), generator=rng)

    def step() -> None:
        F.cross_entropy(head(model(ids, mask)), classes).backward()
        optimizer.step()
        optimizer.zero_grad()

    heads = settings.num_attention_heads
    shape = (texts, heads, length, settings.hidden_size // heads)
    queries, keys, values = (torch.randn(shape, requires_grad=True) for _ in range(3))

    def attention() -> None:
        F.scaled_dot_product_attention(queries, keys, values).sum().backward()

    return median(step, 4.0), settings.num_hidden_layers * median(attention)


def draw_rows(rows: list[Row]) -> Figure:
    """Return the plot by number of rows."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    _curves(seconds, lines(rows, "rows", SECONDS), "s")
    needed = {"index, draw, order": "class index", "tokenise": "tokenise"}
    _curves(memory, {name: columns(rows_of(rows, what), "rows", MEMORY) for name, what in needed.items()}, "MB")
    style.title(seconds, "Seconds by rows", f"sampler of {CLASSES} classes; texts of ten words")
    style.title(memory, "Memory by rows", "peak beyond the imports, with the inputs")
    for axes in (seconds, memory):
        axes.set_xlabel("rows (log scale)")
    return figure


def draw_labels(rows: list[Row]) -> Figure:
    """Return the plot by number of labels."""
    figure = Figure(figsize=(11, 9.4), layout="constrained")
    (single, multi), (evaluation, memory) = figure.subplots(2, 2)
    seconds = lines(rows, "labels", SECONDS)
    for axes, names, title in ((single, SINGLE, "single-label"), (multi, MULTI, "multi-label")):
        _curves(axes, {name: seconds[name] for name in names}, "s")
        style.title(axes, f"Losses, {title}", f"forward and backward, {BATCH} texts")
    _curves(evaluation, {name: line for name, line in seconds.items() if name not in SINGLE + MULTI}, "s")
    style.title(evaluation, "Evaluation", f"{SCORED:,} texts, tuned thresholds")
    needed = {"losses": MULTI[0]} | {name: name for name in seconds if name not in SINGLE + MULTI}
    _curves(memory, {name: columns(rows_of(rows, what), "labels", MEMORY) for name, what in needed.items()}, "MB")
    style.title(memory, "Memory", "peak beyond the imports, with the logits")
    for axes in (single, multi, evaluation, memory):
        axes.set_xlabel("labels or classes (log scale)")
        axes.set_xticks(LABELS, [f"{labels:,}" for labels in LABELS])
    figure.get_layout_engine().set(hspace=0.09)
    return figure


def draw_lengths(rows: list[Row]) -> Figure:
    """Return the plot by length of texts."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    speed, share, memory = figure.subplots(1, 3)
    _curves(speed, {"MiniLM": columns(rows, "tokens per text", "tokens/s")}, "tokens/s", guide=False, log=False)
    x, attention = columns(rows, "tokens per text", "attention")
    # A layer with a feed-forward size of 4 d takes 24 d^2 + 4 T d multiplications per token, attention 4 T d of them.
    arithmetic = [length / (6 * 384 + length) for length in x]
    _curves(share, {"measured": (x, attention), "arithmetic": (x, arithmetic)}, "", guide=False, log=False)
    _curves(memory, {"MiniLM": columns(rows, "tokens per text", MEMORY)}, "MB", guide=False, log=False)
    share.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
    share.yaxis.set_major_locator(MultipleLocator(0.05))
    style.title(speed, "Speed by length", f"training step of {TOKENS:,} tokens")
    style.title(share, "Attention by length", "share of the training step")
    style.title(memory, "Memory by length", "peak of a step, with the weights")
    for axes in (speed, share, memory):
        axes.set_xlabel("tokens per text (log scale)")
        axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
    return figure


def _curves(axes: Axes, curves: Mapping[str, Line], unit: str, guide: bool = True, log: bool = True) -> None:
    """Draw curves with names at their ends. The guide above them has the slope of proportional growth."""
    style.axes(axes, grid="y")
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g} {unit}"))
    axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    drawn = [(name, *line, HUES[name]) for name, line in curves.items()]
    for _, x, y, colour in drawn:
        axes.plot(x, y, "o-", color=colour, linewidth=2, markersize=5, zorder=3)
    if guide:
        low, high = (pick(pick(x) for _, x, *_ in drawn) for pick in (min, max))
        factor = 1.7 * max(y[-1] / high for _, x, y, _ in drawn if x[-1] == high)
        x = [max(low, axes.get_ylim()[0] / factor), high]
        y = [factor * each for each in x]
        axes.plot(x, y, color=FAINT, linewidth=1.2, linestyle=(0, (2, 3)), zorder=1)
        drawn.append(("proportional", x, y, MUTED))
    if not log:
        axes.set_ylim(0, 1.12 * max(max(y) for _, _, y, _ in drawn))
    low, high = axes.get_ylim()
    high *= 1.7 if log else 1  # space for a name
    axes.set_ylim(low, high)
    height = (lambda y: np.log(y / low) / np.log(high / low)) if log else (lambda y: (y - low) / (high - low))
    rightmost, below = max(x[-1] for _, x, *_ in drawn), -1.0
    for name, x, y, colour in sorted(drawn, key=lambda each: each[2][-1]):
        at, offset = float(height(y[-1])), (0, 11)
        if x[-1] == rightmost:  # right of the end, above the name below it
            at, offset = max(at, below + 0.066), (8, 0)
            below = at
        text = axes.annotate(
            name, (x[-1], at), offset, xycoords=("data", "axes fraction"), textcoords="offset points",
            color=colour, fontsize=10, va="center", ha="left" if offset[0] else "center", annotation_clip=False,
            zorder=5,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=3, foreground=PAPER)])


def _short_number(value: float, _: Any = None) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,g}"


def lines(rows: list[Row], x: str, y: str) -> dict[str, Line]:
    """Return the points of each curve."""
    return {each: columns(rows_of(rows, each), x, y) for each in dict.fromkeys(row["what"] for row in rows)}


def rows_of(rows: list[Row], what: str) -> list[Row]:
    """Return the rows of a curve."""
    return [row for row in rows if row["what"] == what]


def columns(rows: list[Row], x: str, y: str) -> Line:
    """Return two columns. Memory is at least 1 MB, the resolution of the measurement."""
    return [row[x] for row in rows], [max(row[y], 1.0) if y == MEMORY else row[y] for row in rows]


def median(function: Callable[[], Any], seconds: float = 1.0) -> float:
    """Return the median seconds of up to 20 calls after a warm-up call, or those of a single long call."""
    measured = [timed(function)]
    while sum(measured) < seconds and len(measured) < 21:
        measured.append(timed(function))
    return statistics.median(measured[1:] or measured)


def zipf(classes: int) -> np.ndarray:
    """Return class frequencies that are proportional to 1 / rank, float64 [C]."""
    shares = 1 / np.arange(1, classes + 1)
    return shares / shares.sum()


def label_sets(texts: int, labels: int) -> csr_matrix:
    """Return random label sets with about 4 labels per text, bool [N, C]."""
    rng = np.random.default_rng(0)
    sizes = rng.poisson(4, texts)
    rows, columns = np.repeat(np.arange(texts), sizes), rng.choice(labels, sizes.sum(), p=zipf(labels))
    targets = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), (texts, labels))
    return targets.astype(bool)


def informative_logits(targets: csr_matrix) -> np.ndarray:
    """Return random logits that are higher for the true labels, float32 [N, C]."""
    logits = np.random.default_rng(1).standard_normal(targets.shape, dtype=np.float32)
    logits += np.log(zipf(targets.shape[1])).astype(np.float32)
    logits[targets.nonzero()] += 4
    return logits


def encoder() -> Any:
    """Return the source of MiniLM."""
    with initialize_config_dir(str(Path(__file__).resolve().parent.parent / "conf"), version_base="1.3"):
        return instantiate(compose("train").encoder)


if __name__ == "__main__":
    main()
