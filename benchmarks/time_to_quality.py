"""Time until validation reaches a macro-F1: the default run against the usual script with Hugging Face's Trainer.

`python benchmarks/time_to_quality.py` trains on Reuters R52 twice, one after the other, and evaluates both each quarter
of an epoch on the same validation texts:

ours      `python train.py`; further arguments are its overrides
trainer   `AutoModelForSequenceClassification` and `Trainer`: class weights n / (C n_c) in `CrossEntropyLoss`, three
          epochs, batches of 16, at most 128 tokens, padding to the longest text of a batch, fp32, AdamW with a linear
          schedule and the other defaults of `TrainingArguments`

The clock starts with the training and stops during evaluations. CPU seconds are those of all threads; they depend less
on other processes than minutes do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytorch_lightning as pl
from measure import report
from sklearn.metrics import f1_score
from torch import as_tensor, float32, nn
from training_candidates import ROOT, Setting, prepare
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from counterpoise.terminal import command_line

GOALS = (0.5, 0.6, 0.7, 0.75, 0.8)
"""Values of macro-F1."""


class Clock:
    """Durations of training at each evaluation, without the evaluations.

    `points` holds an entry for each evaluation: epoch, minutes, CPU seconds, macro-F1.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self._start = self._now = (time.perf_counter(), time.process_time())

    def start(self) -> None:
        """Start the training."""
        self._start = self._now = (time.perf_counter(), time.process_time())

    def step(self) -> None:
        """Record the end of an optimizer step."""
        self._now = (time.perf_counter(), time.process_time())

    def evaluated(self, epoch: float, score: float) -> None:
        """Record the end of an evaluation after the latest step."""
        seconds, cpu = (now - start for now, start in zip(self._now, self._start, strict=True))
        self.points.append({"epoch": epoch, "minutes": seconds / 60, "cpu_seconds": cpu, "macro_f1": score})
        now = (time.perf_counter(), time.process_time())
        self._start = now[0] - seconds, now[1] - cpu
        print(f"epoch {epoch:.2f}: {seconds / 60:.1f} min, {cpu:.0f} CPU s, macro F1 {score:.4f}", flush=True)


class ValidationClock(pl.Callback):
    """Writes the points of a `Clock` to a JSON file."""

    def __init__(self, path: str) -> None:
        self.path, self.clock = Path(path), Clock()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.clock.start()

    def on_train_batch_end(self, *arguments: Any) -> None:  # noqa: D102
        self.clock.step()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if trainer.state.fn == "fit":
            epoch = trainer.global_step / trainer.num_training_batches
            self.clock.evaluated(epoch, float(trainer.callback_metrics["val/macro_f1"]))
            self.path.write_text(json.dumps(self.clock.points))


def ours(overrides: Sequence[str]) -> list[dict[str, float]]:
    """Run `train.py` and return the points of its clock."""
    with tempfile.TemporaryDirectory() as folder:
        points = Path(folder, "points.json")
        callback = ["_target_=time_to_quality.ValidationClock", f"path={points}"]
        command = [sys.executable, str(ROOT / "train.py"), f"hydra.run.dir={folder}/run"]
        command += ["trainer.val_check_interval=0.25", *(f"+callbacks.clock.{each}" for each in callback), *overrides]
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        subprocess.run(command, check=True, env=environment)
        return json.loads(points.read_text())


class WeightedTrainer(Trainer):
    """The Trainer with class weights, as forums and tutorials write it."""

    weight: Any = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted cross-entropy."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.CrossEntropyLoss(weight=self.weight)(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class EvaluationClock(TrainerCallback):
    """A `Clock` of the Trainer."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:  # noqa: D102
        self.clock.start()

    def on_step_end(self, *arguments: Any, **more: Any) -> None:  # noqa: D102
        self.clock.step()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **more: Any) -> None:  # noqa: D102
        self.clock.evaluated(state.epoch, metrics["eval_macro_f1"])


def usual(setting: Setting, lr: float, epochs: int) -> list[dict[str, float]]:
    """Train with the Trainer and return the points of its clock."""
    data, clock = setting.data, EvaluationClock()
    weight = as_tensor(data.counts.sum() / (len(data.counts) * data.counts), dtype=float32)
    model = AutoModelForSequenceClassification.from_pretrained(setting.source.locate(), num_labels=len(data.labels))
    encoded = {}
    for split in ("train", "validation"):
        texts, labels = setting.texts(split)
        tokens = data.tokenizer(texts, truncation=True, max_length=data.tokenisation.max_length)
        encoded[split] = datasets.Dataset.from_dict({**tokens, "labels": labels})

    def macro_f1(prediction: Any) -> dict[str, float]:
        predicted, targets = prediction.predictions.argmax(1), prediction.label_ids
        score = f1_score(targets, predicted, labels=np.unique(targets), average="macro", zero_division=0)
        return {"macro_f1": float(score)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=lr,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            num_train_epochs=epochs,
            eval_strategy="steps",
            eval_steps=max(1, setting.steps // 4),
            seed=setting.config.seed,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = WeightedTrainer(
            model=model,
            args=arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            data_collator=DataCollatorWithPadding(data.tokenizer),
            compute_metrics=macro_f1,
            callbacks=[clock],
        )
        trainer.weight = weight
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.clock.points


def row(name: str, points: Sequence[dict[str, float]], goal: float) -> dict[str, Any]:
    """Return the time of the first evaluation that reaches a goal; None if no evaluation does."""
    reached = next((point for point in points if point["macro_f1"] >= goal), None)
    return {f"{name}, {key}": reached and reached[key] for key in ("minutes", "cpu_seconds")}


def main() -> None:
    """Read the command line, train twice, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of our run, such as trainer.precision=32-true")
    parser.add_argument("--lr", type=float, default=5e-5, help="learning rate of the Trainer (default: 5e-5, its own)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the Trainer (default: 3)")
    parser.add_argument("--json", type=Path, help="JSON file to write; all evaluations are written to NAME-curves.json")
    arguments = parser.parse_args()
    curves = {"ours": ours(arguments.overrides)}
    setting = prepare("reuters_r52", 128, "32-true")
    curves["trainer"] = usual(setting, arguments.lr, arguments.epochs)
    if arguments.json:
        curves_path = arguments.json.with_stem(f"{arguments.json.stem}-curves")
        curves_path.write_text(json.dumps(curves, indent=2))
    rows = [{"macro F1": goal, **row("ours", curves["ours"], goal)} for goal in GOALS]
    for each in rows:
        peer = row("trainer", curves["trainer"], each["macro F1"])
        times = each["ours, cpu_seconds"], peer["trainer, cpu_seconds"]
        each |= peer | {"ours / trainer, CPU": times[0] / times[1] if all(times) else None}
    best = {name: max(point["macro_f1"] for point in points) for name, points in curves.items()}
    whole = {name: points[-1] for name, points in curves.items()}
    report(f"Time to a macro F1 on validation, R52, lr of the Trainer {arguments.lr:g}", rows, arguments.json)
    for name, last in whole.items():
        print(
            f"{name}: highest macro F1 {best[name]:.4f}; {last['minutes']:.1f} min and {last['cpu_seconds']:.0f} CPU s "
            f"for {last['epoch']:.0f} epochs"
        )


if __name__ == "__main__":
    command_line(main)
