"""What other tools reach on Reuters R52 in the time of `python train.py -m sweep=auto budget=30m`.

`python benchmarks/time_budget.py trainer --minutes 30` trains on the same texts with the same encoder, evaluates on the
same test texts, and prints accuracy and macro F1. The number of steps is what fits in the time after a measurement of
the speed; a tenth is kept for the evaluations.

trainer   `AutoModelForSequenceClassification` and Hugging Face's `Trainer`: class weights n / (C n_c) in
          `CrossEntropyLoss`, bf16, batches of 16, at most 128 tokens, linear schedule; the epoch with the best
          validation macro F1 is tested
setfit    SetFit (`pip install setfit`): contrastive training of the encoder, at most 64 tokens, then logistic
          regression with balanced class weights
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from time_to_quality import WeightedTrainer
from training_candidates import Setting, prepare
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainingArguments

from counterpoise.errors import UserError
from counterpoise.terminal import command_line

KEPT = 0.1
"""Fraction of the time that is kept for evaluations and for the head."""
MEASURED_STEPS = 30
"""Steps that the speed is measured on."""


def scores(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro F1 over the classes of the targets."""
    macro_f1 = f1_score(targets, predicted, labels=np.unique(targets), average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(targets, predicted)), "macro_f1": float(macro_f1)}


def steps_within(seconds: float, train: Callable[[int], object]) -> int:
    """Return the number of steps that fit into a time, by the duration of `MEASURED_STEPS` steps."""
    start = time.perf_counter()
    train(MEASURED_STEPS)
    per_step = (time.perf_counter() - start) / MEASURED_STEPS
    steps = int((1 - KEPT) * (seconds / per_step)) - MEASURED_STEPS
    if steps < 1:
        raise UserError(f"--minutes: a step takes {per_step:.1f} s: give more time")
    return steps


def trainer(setting: Setting, seconds: float, seed: int) -> dict[str, float]:
    """Train with the Trainer for about this long and return the test scores of the best epoch."""
    data = setting.data
    weight = data.counts.sum() / (len(data.counts) * data.counts)
    encoded = {}
    for split in ("train", "validation", "test"):
        texts, labels = setting.texts(split)
        tokens = data.tokenizer(texts, truncation=True, max_length=data.tokenisation.max_length)
        encoded[split] = datasets.Dataset.from_dict({**tokens, "labels": labels})

    def run(steps: int, evaluate: bool, folder: str) -> WeightedTrainer:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=1e-4,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            max_steps=steps,
            bf16=True,
            use_cpu=True,
            seed=seed,
            eval_strategy="epoch" if evaluate else "no",
            save_strategy="epoch" if evaluate else "no",
            save_total_limit=1,
            load_best_model_at_end=evaluate,
            metric_for_best_model="macro_f1",
            report_to="none",
            disable_tqdm=True,
        )
        one = WeightedTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(
                setting.source.locate(), num_labels=len(data.labels)
            ),
            args=arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded["validation"],
            data_collator=DataCollatorWithPadding(data.tokenizer),
            compute_metrics=lambda result: scores(result.predictions.argmax(1), result.label_ids),
        )
        one.weight = torch.as_tensor(weight, dtype=torch.float32)
        one.train()
        return one

    with tempfile.TemporaryDirectory() as folder:
        best = run(steps_within(seconds, lambda steps: run(steps, False, folder)), True, folder)
        result = best.predict(encoded["test"])  # type: ignore[arg-type]
    return scores(result.predictions.argmax(1), result.label_ids)  # type: ignore[union-attr, arg-type]


def setfit(setting: Setting, seconds: float, seed: int) -> dict[str, float]:
    """Train with SetFit for about this long and return the test scores."""
    try:
        from setfit import SetFitModel, Trainer
        from setfit import TrainingArguments as Arguments
    except ImportError as error:
        raise UserError("this peer needs setfit: pip install setfit") from error
    data: Any = {
        split: datasets.Dataset.from_dict(dict(zip(("text", "label"), setting.texts(split), strict=True)))
        for split in ("train", "test")
    }

    def run(steps: int, rows: range) -> SetFitModel:
        head = {"class_weight": "balanced", "max_iter": 1000}
        model = SetFitModel.from_pretrained(setting.source.locate(), head_params=head)
        model.model_body.max_seq_length = 64
        arguments = Arguments(batch_size=16, max_steps=steps, seed=seed, report_to="none")
        Trainer(model=model, args=arguments, train_dataset=data["train"].select(rows)).train()
        return model

    # The head is trained on all rows afterwards: few of them are enough to measure the steps.
    steps = steps_within(seconds, lambda steps: run(steps, range(10 * MEASURED_STEPS)))
    model = run(steps, range(len(data["train"])))
    return scores(np.asarray(model.predict(data["test"]["text"])), np.asarray(data["test"]["label"]))


def main() -> None:
    """Read the command line, train, and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("trainer", "setfit"))
    parser.add_argument("--minutes", type=float, default=30, help="time for training and test (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    setting = prepare("reuters_r52", 128, "32-true")
    start = time.perf_counter()
    found = {"trainer": trainer, "setfit": setfit}[arguments.peer](setting, 60 * arguments.minutes, arguments.seed)
    minutes = (time.perf_counter() - start) / 60
    print(f"{arguments.peer}: accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}; {minutes:.1f} min")


if __name__ == "__main__":
    command_line(main)
