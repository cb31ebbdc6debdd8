"""The model card of an exported run: its data, its correction and its measured quality, from the files of the run."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions, comparison_metrics
from counterpoise.analysis.jackknife import deviations
from counterpoise.analysis.runs import Run, load_runs
from counterpoise.csv_tables import read_csv
from counterpoise.metrics import registry
from counterpoise.saved_files import read_json, reading

TEMPLATE = Path(__file__).with_name("model_card.md")
SHOWN_CLASSES = 10
"""Classes at each end of the table; all classes if there are at most twice as many."""
FEW_TEXTS = 10
"""Test texts below which the scores of a class are called uncertain."""
Z = NormalDist().inv_cdf(0.975)


def write_model_card(folder: Path, run: Path, layout: str, config: dict[str, Any]) -> None:
    """Write `README.md`, the model card of a run that is exported to a folder.

    Args:
        folder: Folder of the exported model.
        run: Run folder.
        layout: Library that loads the exported model.
        config: Configuration of the run.

    Raises:
        UserError: The files of the run are damaged.
    """
    tested = load_runs([run])[0][0]
    metrics = read_json(run / "metrics.json")
    with reading(run):
        classes = read_csv(run / "per_class.csv", "class")
        balance = read_csv(run / "balance.csv", "class", ["class", "effective_prior"])
        content = _content(tested, metrics, classes, balance["effective_prior"].to_numpy(float), config)
    tested_on = {"task_type": "text-classification", "dataset_type": "private", "dataset_name": content["data"]}
    native = layout == "transformers"
    card_data = ModelCardData(
        library_name=layout,
        pipeline_tag="text-classification" if native else None,
        tags=["text-classification", "class-imbalance", "counterpoise"],
        model_name=content["name"],
        eval_results=[
            EvalResult(**tested_on, dataset_split="test", metric_type=kind, metric_name=title, metric_value=value)
            for name, kind, title in (("macro_f1", "f1", "macro F1"), ("accuracy", "accuracy", "accuracy"))
            if (value := metrics["test"].get(name)) is not None
        ],
    )
    usage = _usage(native, tested.multi_label)
    card = ModelCard.from_template(card_data, template_path=str(TEMPLATE), usage=usage, **content)
    card.save(folder / "README.md")


def _content(
    run: Run, metrics: dict[str, Any], classes: pd.DataFrame, prior: np.ndarray, config: dict[str, Any]
) -> dict[str, Any]:
    """Return the variables of the template."""
    splits = metrics["data"]
    truncated = splits["test"].get("truncated")
    calibration = metrics.get("calibration")
    ordered = classes.assign(effective_prior=prior).sort_values("f1", ascending=False, kind="stable")
    data = _name(config["data"])
    name = f"{_name(config['encoder'])} on {data}"
    return {
        "name": name,
        "title": _text(name),
        "multi_label": run.multi_label,
        "classes": "labels" if run.multi_label else "classes",
        "num_classes": len(run.labels),
        "base": _text(_name(config["encoder"])),
        "decision": _decision(run, config),
        "data": _text(data),
        "examples": {name: f"{splits[name]['examples']:,}" for name in ("train", "validation", "test")},
        "largest": f"{run.counts.max():,}",
        "smallest": f"{run.counts.min():,}",
        "max_length": config["encoder"]["max_length"],
        "truncated": "an unknown fraction" if truncated is None else f"{truncated:.0%}",
        "strategy": metrics["strategy"]["name"],
        "prior_ratio": _ratio(prior),
        "count_ratio": _ratio(run.counts),
        "sample_size": _number(metrics["strategy"].get("effective_sample_size"), ".0%"),
        "scores": _scores(run, metrics["test"]),
        "baseline": _number((metrics.get("baseline") or {}).get("test", {}).get("macro_f1"), ".3f", ""),
        "shown_classes": _shown(run, ordered),
        "class_table": _class_table(ordered),
        "calibration": _calibration(calibration) if calibration else "",
        "variant": calibration["variant"] if calibration else "",
        "limits": _limits(run, metrics, classes),
    }


def _usage(native: bool, multi_label: bool) -> str:
    """Return the code that predicts with the folder."""
    if native:
        return (
            "from transformers import pipeline\n\n"
            'classify = pipeline("text-classification", model="FOLDER", top_k=None)\n'
            'classify(["a text"], truncation=True)'
        )
    probabilities = "logits.sigmoid()" if multi_label else "logits.softmax(-1)"
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        'model = SentenceTransformer("FOLDER")\n'
        'logits = model.encode(["a text"], convert_to_tensor=True)  # columns in the order of id2label in config.json\n'
        f"probabilities = {probabilities}"
    )


def _decision(run: Run, config: dict[str, Any]) -> list[str]:
    if not run.multi_label:
        return ["The prediction is the class with the largest logit. `id2label` in `config.json` names the classes."]
    top_k = config["decision"].get("top_k")
    rule = (
        f"The prediction is the {top_k} most probable labels."
        if top_k
        else "A label is predicted if its probability exceeds its threshold in `thresholds.json`."
    )
    return [rule, "A pipeline returns probabilities and does not apply this rule."]


def _scores(run: Run, scores: dict[str, float]) -> str:
    """Return the table of the shown test metrics, with intervals for those that are functions of class counts."""
    task: registry.Task = "multi_label" if run.multi_label else "single_label"
    support = np.asarray(run.truth.sum(axis=0)).ravel()
    countable = comparison_metrics(task, support, run.counts, run.bounds)
    decisions = GroupDecisions(run.truth, [[run.decided]])
    shown = [metric for metric in registry.select(task, "results") if scores.get(metric.name) is not None]
    rows = [
        (
            metric.title,
            f"{scores[metric.name]:.3f}",
            _interval(decisions, countable.get(metric.name), scores[metric.name]),
        )
        for metric in shown
    ]
    return _table(("metric", "value", "95 % interval"), rows)


def _interval(decisions: GroupDecisions, metric: CountMetric | None, value: float) -> str:
    """Return the interval of a metric over test texts; an empty string if it has none."""
    if metric is None:
        return ""
    width = Z * float(np.sqrt(np.square(deviations(decisions, metric)).sum()))
    return "" if np.isnan(width) else f"{max(0.0, value - width):.3f} to {min(1.0, value + width):.3f}"


def _shown(run: Run, ordered: pd.DataFrame) -> str:
    noun, tested = "labels" if run.multi_label else "classes", int((ordered["test_count"] > 0).sum())
    if len(ordered) <= 2 * SHOWN_CLASSES:
        return f"All {noun} by F1:"
    if tested <= 2 * SHOWN_CLASSES:
        return f"All {noun} with test texts by F1:"
    return f"The {SHOWN_CLASSES} {noun} with the highest and the {SHOWN_CLASSES} with the lowest F1:"


def _class_table(ordered: pd.DataFrame) -> str:
    """Return the table of the classes that `_shown` names. Scores of a class without test texts are empty."""
    shown = ordered if len(ordered) <= 2 * SHOWN_CLASSES else ordered[ordered["test_count"] > 0]
    if len(shown) > 2 * SHOWN_CLASSES:
        shown = pd.concat([shown.head(SHOWN_CLASSES), shown.tail(SHOWN_CLASSES)])
    rows = [
        (
            _text(row["class"]),
            f"{row['train_count']:,}",
            f"{row['effective_prior']:.3g}",
            f"{row['test_count']:,}",
            *(f"{row[name]:.3f}" if row["test_count"] else "" for name in ("precision", "recall", "f1")),
        )
        for row in shown.to_dict("records")
    ]
    return _table(("class", "training", "effective prior", "test", "precision", "recall", "F1"), rows)


def _calibration(section: dict[str, Any]) -> str:
    names = {"nll": "negative log-likelihood", "brier": "Brier score", "ece": "calibration error (ECE)"}
    variants = dict.fromkeys(["raw", section["variant"]])
    rows = [(title, *(f"{section['test'][each][name]:.3f}" for each in variants)) for name, title in names.items()]
    return _table(("test split", *(name.replace("_", " ") for name in variants)), rows)


def _limits(run: Run, metrics: dict[str, Any], classes: pd.DataFrame) -> list[str]:
    noun = "labels" if run.multi_label else "classes"
    few, none = classes["test_count"].between(1, FEW_TEXTS - 1).sum(), (classes["test_count"] == 0).sum()
    lines = ["Scores hold for texts from the source of the test split. Texts of other origin were not tested."]
    if few:
        lines.append(f"{few} {noun} have fewer than {FEW_TEXTS} test texts: their scores are uncertain.")
    if none:
        lines.append(f"{none} {noun} have no test text: their quality is unknown.")
    if metrics.get("probe"):
        lines.append("Only the head was trained, on a frozen encoder.")
    return lines + [f"Data: {_text(line.rstrip('.'))}." for line in metrics.get("data_warnings", ())]


def _name(part: dict[str, Any]) -> str:
    """Return the last part of the path or name of a data source or an encoder, without folders of this machine."""
    value = next((part[key] for key in ("name", "path", "train") if part.get(key)), part["_target_"])
    # A folder named `model` inside a wheel says little: the folder above it names the model.
    parts = [each for each in Path(str(value)).parts if each not in ("model", "/")]
    return parts[-1] if parts else str(value)


def _ratio(values: np.ndarray) -> str:
    positive = values[values > 0]
    return f"{positive.max() / positive.min():,.1f}" if len(positive) else "unknown"


def _number(value: float | None, form: str, unknown: str = "unknown") -> str:
    return unknown if value is None else format(value, form)


def _text(value: str) -> str:
    """Return text that is shown as it is in Markdown, in one line."""
    escaped = html.escape(" ".join(str(value).split()), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|" else character for character in escaped)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
