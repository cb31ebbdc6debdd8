"""Write a run as a folder that `transformers` or `sentence-transformers` loads, and compare its logits with the run.

A model that a class of `transformers` has with exactly this head, such as BERT with its pooler, is written for
`AutoModelForSequenceClassification` and the text-classification pipeline. Other models with a linear head are written
for `SentenceTransformer`, as three modules: transformer, pooling, dense layer. Its `encode` returns the logits. Neither
needs code of this package, or `trust_remote_code`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from counterpoise.analysis.job_folders import ENSEMBLE_FILE
from counterpoise.commands.model_card import write_model_card
from counterpoise.commands.run_predictor import make_predictor
from counterpoise.commands.saved_run import load_run
from counterpoise.commands.tested_texts import read_tested_texts
from counterpoise.commands.trusted_classes import PACKAGE, build
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.io import atomic_folder
from counterpoise.model.encoder import Encoder
from counterpoise.model.heads import is_linear
from counterpoise.model.module import Classifier
from counterpoise.model.pretrained import load_backbone, load_config

FILE = "hugging_face.json"
"""File that says how a folder was exported: run, layout, labels and differences."""
TOLERANCE = 1e-3
"""Maximum absolute difference between the logits of the folder and the run. Rounding causes about 1e-5."""
COMPARED_TEXTS = 64
"""Number of texts whose logits are compared."""
TRANSFORMERS, SENTENCE_TRANSFORMERS = "transformers", "sentence-transformers"
DENSE = "2_Dense"


@dataclass(frozen=True)
class Exported:
    """What an export has written.

    Args:
        layout: Library that loads the folder.
        labels: Names of the C classes or labels.
        largest_difference: Largest difference of a logit to the run.
    """

    layout: str
    labels: list[str]
    largest_difference: float


def export_hugging_face(run: Path, output: Path, packages: Sequence[str] = (PACKAGE,)) -> Exported:
    """Export a run.

    Args:
        run: Run folder.
        output: Folder to write. An earlier export is replaced.
        packages: Packages whose classes may be built. See `trusted_classes.allowed_packages`.

    Raises:
        UserError: `output` is not an earlier export, neither library can express the model, or its logits differ.
    """
    if (run / ENSEMBLE_FILE).is_file():
        raise UserError(f"{run} is an ensemble, which no model of transformers expresses: export its runs, or use ONNX")
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / FILE).is_file())):
        raise UserError(f"--output {output} exists and is not an earlier export of this kind: name another folder")
    model, config = load_run(run, packages)
    head, encoder = model.head, model.encoder
    if type(encoder) is not Encoder or not is_linear(head):
        raise UserError(
            f"{run}: transformers has no model of {type(encoder).__name__} with {type(head).__name__}: linear heads "
            "can be exported. Use --format onnx"
        )
    source = build(config["encoder"], packages)
    if source.long_texts != "truncate":
        raise UserError(
            f"{run}: transformers and sentence-transformers truncate long texts, and do not read them as "
            f"encoder.long_texts={source.long_texts}. Use --format onnx"
        )
    ours = make_predictor(run, model, config, packages=packages)
    if ours.columns > 1:
        raise UserError(
            f"{run}: texts of several columns (data.text) are no single text, which transformers and "
            "sentence-transformers expect. Use --format onnx"
        )
    tokenizer = load_tokenizer(source.locate(), source.revision)
    tokenizer.model_max_length = source.max_length
    texts = _compared_texts(run, config, ours.labels, tokenizer, packages)
    with atomic_folder(output) as folder:
        tokenizer.save_pretrained(folder)
        _set_labels(encoder.backbone.config, model)
        if encoder.pooling == "pooler":
            layout = TRANSFORMERS
            _sequence_classifier(run, encoder, head).save_pretrained(folder)
        else:
            layout = SENTENCE_TRANSFORMERS
            _write_modules(folder, encoder, head, source.max_length)
        found = _logits(folder, layout, encoder.pooling, texts)
        difference = float(np.nan_to_num(np.abs(found - ours(texts)), nan=np.inf).max())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{run}: a logit of the exported model differs from the run's by {difference:.2g}, more than "
                f"{TOLERANCE:g}: nothing was written"
            )
        exported = Exported(layout, ours.labels, difference)
        _write_companions(folder, run, exported)
        write_model_card(folder, run, layout, config)
    return exported


def _set_labels(config: Any, model: Classifier) -> None:
    """Name the logits in the configuration of transformers."""
    config.id2label = dict(enumerate(model.labels))
    config.label2id = {label: number for number, label in enumerate(model.labels)}
    config.problem_type = f"{'multi' if model.scoring.multi_label else 'single'}_label_classification"


def _sequence_classifier(run: Path, encoder: Encoder, head: nn.Linear) -> Any:
    """Return the model of transformers that has this encoder, its pooler, and this head.

    Raises:
        UserError: Its family has no such model, or one whose head has further layers.
    """
    config: Any = encoder.backbone.config
    refused = f"{run}: {config.model_type} with its pooler and a linear head has no model in transformers"
    try:
        found = AutoModelForSequenceClassification.from_config(config)
        found.base_model.load_state_dict(encoder.backbone.state_dict())
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{refused}. Use --format onnx") from error
    own = getattr(found, "classifier", None)
    if not isinstance(own, nn.Linear) or own.weight.shape != head.weight.shape or head.bias is None:
        raise UserError(f"{refused}: its own head is {type(own).__name__}. Use --format onnx")
    own.load_state_dict(head.state_dict())
    return found


def _write_modules(folder: Path, encoder: Encoder, head: nn.Linear, max_length: int) -> None:
    """Write the encoder, its pooling and the head as the modules of a `SentenceTransformer`."""
    encoder.backbone.save_pretrained(folder)  # type: ignore[operator]
    (folder / "1_Pooling").mkdir()
    (folder / DENSE).mkdir()
    weights = {f"linear.{name}": value.contiguous() for name, value in head.state_dict().items()}
    save_file(weights, folder / DENSE / "model.safetensors")
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), (DENSE, "Dense"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    pooling = {
        "word_embedding_dimension": encoder.size,
        "pooling_mode_cls_token": encoder.pooling == "cls",
        "pooling_mode_mean_tokens": encoder.pooling == "mean",
    }
    dense = {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": head.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    for name, content in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
        (f"{DENSE}/config.json", dense),
    ):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _compared_texts(
    run: Path,
    config: dict[str, Any],
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    packages: Sequence[str],
) -> list[str]:
    """Return test texts of all lengths; texts of random tokens if the test split cannot be read."""
    try:
        texts = sorted(read_tested_texts(run, config, labels, packages).texts, key=len)
        return [texts[row] for row in np.linspace(0, len(texts) - 1, COMPARED_TEXTS).astype(int)]
    except UserError:
        rng, longest = np.random.default_rng(0), config["encoder"]["max_length"]
        lengths = np.linspace(1, longest, COMPARED_TEXTS).astype(int)
        return [str(tokenizer.decode(rng.integers(0, len(tokenizer), length))) for length in lengths]


@torch.inference_mode()
def _logits(folder: Path, layout: str, pooling: str, texts: Sequence[str]) -> np.ndarray:
    """Return the logits, float32 [N, C], that the files of the folder give."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(list(texts), truncation=True, padding=True, return_tensors="pt")
    if layout == TRANSFORMERS:
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()(**batch).logits.numpy()
    config = load_config(str(folder), folder.name)
    encoder = Encoder(load_backbone(str(folder), folder.name, config, "sdpa", pooler=False), pooling).eval()
    weights = load_file(folder / DENSE / "model.safetensors")
    vectors = encoder(batch["input_ids"], batch["attention_mask"])
    return nn.functional.linear(vectors, weights["linear.weight"], weights.get("linear.bias")).numpy()


def _write_companions(folder: Path, run: Path, exported: Exported) -> None:
    """Write what the export is, and copy thresholds, calibration and the table of classes."""
    content = {
        "run": run.name,
        "layout": exported.layout,
        "labels": exported.labels,
        "largest_difference": exported.largest_difference,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    for name in ("thresholds.json", "calibration.json", "per_class.csv"):
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
