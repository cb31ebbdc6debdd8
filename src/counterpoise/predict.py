"""Predicts the classes of new texts: `python -m counterpoise.predict RUN FILE --text COLUMN`."""

import argparse
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import yaml
from hydra.utils import instantiate
from rich.progress import track
from torch import nn

from counterpoise.balance.decision import read_thresholds
from counterpoise.cli import command_line
from counterpoise.data.batching import TokenDataset, evaluation_batches
from counterpoise.data.tables import read_columns
from counterpoise.data.tokens import load_tokenizer, tokenise
from counterpoise.errors import UserError
from counterpoise.evaluate.predictions import write_multilabel_predictions, write_predictions
from counterpoise.model.classifier import Classifier
from counterpoise.model.heads import CosineHead
from counterpoise.model.optim import Optim
from counterpoise.model.scoring import MultiLabelScoring
from counterpoise.trainer import load_checkpoint


def load_run(run: Path) -> tuple[Classifier, dict]:
    """Returns the trained classifier of a run folder, in evaluation mode, and the run's configuration."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is no run folder: it has no config.yaml")
    config = yaml.safe_load((run / "config.yaml").read_text())
    checkpoint = load_checkpoint(run / "checkpoints" / "best.ckpt")
    labels = checkpoint["labels"]
    encoder = instantiate(config["encoder"]).load()
    decision = None
    if "scoring.thresholds" in checkpoint["state_dict"]:
        decision = instantiate(config["decision"] | {"file": None})
    model = Classifier(encoder, nn.Identity(), Optim(), labels, np.zeros(len(labels)), batch_size=1, decision=decision)
    if "head.scale" in checkpoint["state_dict"]:
        model.head = CosineHead(encoder.size, len(labels), float(checkpoint["state_dict"]["head.scale"]))
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval(), config


@torch.inference_mode()
def predict(model: Classifier, dataset: TokenDataset, batch_size: int = 64) -> np.ndarray:
    """Returns logits float32 [N, C], in the order of the dataset, on the device of the model."""
    logits = np.zeros((len(dataset), len(model.labels)), np.float32)
    for rows in track(evaluation_batches(dataset.lengths, batch_size), "predicting", transient=True):
        batch = dataset[rows]
        output = model(batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device))
        logits[rows] = output.float().cpu().numpy()
    return logits


def main() -> None:
    """Reads the command line, writes a Parquet file with a prediction for each row of the texts."""
    parser = argparse.ArgumentParser(prog="counterpoise.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("file", type=Path, help="texts: .csv .tsv .jsonl (plain or .gz) or .parquet")
    parser.add_argument("--text", default="text", help="column of the text (default: text)")
    parser.add_argument("--id", help="column that names the rows (default: their number)")
    parser.add_argument("--thresholds", type=Path, help="JSON, label to threshold, instead of those of the run")
    parser.add_argument("--output", type=Path, default=Path("predictions.parquet"), help="what to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")

    table = read_columns(arguments.file, arguments.text, [arguments.id] if arguments.id else [])
    texts = _strings(table[arguments.text], f"{arguments.file}: column '{arguments.text}'")
    ids = _strings(table[arguments.id], "ids").to_pylist() if arguments.id else range(1, len(table) + 1)

    model, config = load_run(arguments.run)
    scoring = model.scoring
    if arguments.thresholds:
        if not isinstance(scoring, MultiLabelScoring):
            raise UserError(f"--thresholds: {arguments.run} predicts one class a text, the most probable")
        scoring.thresholds.copy_(torch.from_numpy(read_thresholds(arguments.thresholds, model.labels)))
    tokenizer = load_tokenizer(instantiate(config["encoder"]).locate())
    store = tokenise(texts, tokenizer, config["encoder"]["max_length"], arguments.file.name)
    rows = np.arange(len(store))
    dataset = TokenDataset(store, rows, np.zeros_like(rows), tokenizer.pad_token_id or 0)
    logits = predict(model.to(arguments.device), dataset)
    names = [str(i) for i in ids]
    if isinstance(scoring, MultiLabelScoring):
        write_multilabel_predictions(arguments.output, names, model.labels, None, logits, scoring.decide(logits))
    else:
        write_predictions(arguments.output, names, model.labels, None, logits)
    print(f"{len(rows):,} predictions in {arguments.output}")


def _strings(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    try:
        return pc.fill_null(column.cast(pa.large_string()), "")
    except pa.ArrowInvalid as error:
        raise UserError(f"{what} is not text in UTF-8") from error


if __name__ == "__main__":
    command_line(main)
