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
from scipy.special import softmax
from torch import nn

from counterpoise.balance.costs import least_cost, read_costs
from counterpoise.balance.decision import read_thresholds
from counterpoise.cli import command_line
from counterpoise.data.batching import TokenDataset, evaluation_batches
from counterpoise.data.tables import read_columns
from counterpoise.data.tokens import load_tokenizer, tokenise
from counterpoise.errors import UserError
from counterpoise.evaluate.calibration import Adjustment, read_adjustment
from counterpoise.evaluate.predictions import write_multilabel_predictions, write_predictions
from counterpoise.model.classifier import Classifier
from counterpoise.model.heads import CosineHead
from counterpoise.model.optim import Optim
from counterpoise.model.scoring import MultiLabelScoring
from counterpoise.trainer import load_checkpoint

log = logging.getLogger(__name__)


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
    # Of a scout, whose encoder stayed as it was, the checkpoint holds the head alone.
    missing, unexpected = model.load_state_dict(checkpoint["state_dict"], strict=False)
    if unexpected or not all(name.startswith("encoder.") for name in missing):
        raise UserError(f"{run}: the checkpoint is of another model than config.yaml says")
    return model.eval(), config


@torch.inference_mode()
def predict(model: Classifier, dataset: TokenDataset, batch_size: int = 64) -> np.ndarray:
    """Returns logits float32 [N, C], in the order of the dataset, on the device of the model."""
    logits = np.zeros((len(dataset), len(model.labels)), np.float32)
    for rows in track(evaluation_batches(dataset.lengths, batch_size), "predicting", transient=True):
        batch = dataset[rows]
        output = model({name: batch[name].to(model.device) for name in model.encoder.inputs})
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
    parser.add_argument("--calibrated", action="store_true", help="write the run's calibrated probabilities")
    parser.add_argument("--costs", type=Path, help="CSV, what mistakes cost: adds the decision of the least cost")
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
    if arguments.costs and isinstance(scoring, MultiLabelScoring):
        raise UserError(f"--costs: {arguments.run} predicts any number of labels a text, and costs are of one class")
    costs = read_costs(arguments.costs, model.labels) if arguments.costs else None
    adjustment = _adjustment(arguments.run, model.labels, arguments.calibrated, costs is not None)
    tokenizer = load_tokenizer(instantiate(config["encoder"]).locate())
    store = tokenise(texts, tokenizer, config["encoder"]["max_length"], arguments.file.name)
    rows = np.arange(len(store))
    dataset = TokenDataset(store, rows, np.zeros_like(rows), tokenizer.pad_token_id or 0)
    logits = predict(model.to(arguments.device), dataset)
    names = [str(i) for i in ids]
    # Decisions are those of the raw logits: the strategy trained them, and thresholds were tuned on them.
    adjusted = logits if adjustment is None else adjustment(logits)
    written = adjusted if arguments.calibrated else logits
    if isinstance(scoring, MultiLabelScoring):
        write_multilabel_predictions(arguments.output, names, model.labels, None, written, scoring.decide(logits))
    else:
        cheapest = None if costs is None else least_cost(softmax(adjusted.astype(np.float64), axis=1), costs)
        write_predictions(arguments.output, names, model.labels, None, logits, calibrated=written, least_cost=cheapest)
    print(f"{len(rows):,} predictions in {arguments.output}")


def _adjustment(run: Path, labels: list[str], calibrated: bool, costs: bool) -> Adjustment | None:
    """Returns what calibrates the run's probabilities, where it is asked for or decisions at the least cost want it."""
    path = run / "calibration.json"
    if calibrated and not path.is_file():
        raise UserError(f"--calibrated: {run} has no calibration.json: its probabilities were not calibrated")
    if costs and not path.is_file():
        log.warning("%s has no calibration.json: costs are weighed by its raw probabilities", run)
    return read_adjustment(path, labels) if (calibrated or costs) and path.is_file() else None


def _strings(column: pa.ChunkedArray, what: str) -> pa.ChunkedArray:
    try:
        return pc.fill_null(column.cast(pa.large_string()), "")
    except pa.ArrowInvalid as error:
        raise UserError(f"{what} is not text in UTF-8") from error


if __name__ == "__main__":
    command_line(main)
