"""A model without training: its logits are the numbers of the words a, b and c in a text."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from counterpoise.commands.predictor import Predictor
from counterpoise.metrics.thresholds import Decision

WORDS = ("<unk>", "a", "b", "c")


def counting_model(classes: Sequence[str] = ("A", "B", "C"), thresholds: Sequence[float] | None = None) -> Predictor:
    """Return the model; with probability thresholds a multi-label one."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    def count(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.stack([((ids == number) & (mask == 1)).sum(axis=1) for number in (1, 2, 3)], 1, dtype=np.float32)

    predictor = Predictor(labels=list(classes), tokenizer=tokenizer, pad=0, model=count, max_tokens=8)
    if thresholds is not None:
        predictor.decision, predictor.thresholds = Decision(), np.array(thresholds)
    return predictor


def write_counting_export(folder: Path, classes: Sequence[str] = ("A", "B", "C")) -> Path:
    """Write the single-label model as `counterpoise.export` writes a run."""
    from onnx import TensorProto, helper, save

    nodes = [helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT)]
    constants = [helper.make_tensor("axis", TensorProto.INT64, [1], [1])]
    for number in (1, 2, 3):
        constants.append(helper.make_tensor(f"id{number}", TensorProto.INT64, [], [number]))
        nodes += [
            helper.make_node("Equal", ["input_ids", f"id{number}"], [f"equal{number}"]),
            helper.make_node("Cast", [f"equal{number}"], [f"found{number}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"found{number}", "mask"], [f"word{number}"]),
            helper.make_node("ReduceSum", [f"word{number}", "axis"], [f"count{number}"]),
        ]
    nodes.append(helper.make_node("Concat", ["count1", "count2", "count3"], ["logits"], axis=1))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(nodes, "counting", inputs, [logits], constants)
    folder.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    counting_model().tokenizer.save(str(folder / "tokenizer.json"))
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    content = {"labels": list(classes), "tokenizer_sha256": digest, "pad_token_id": 0, "decision": None}
    (folder / "export.json").write_text(json.dumps(content))
    return folder
