"""Inference on a CPU: this project (PyTorch, ONNX, int8 ONNX) and the text-classification pipeline of transformers.

`python benchmarks/inference.py` uses MiniLM with an untrained head of 52 classes, `python benchmarks/inference.py RUN`
a finished run. The texts are those of Reuters R52's test split, repeated as often as needed. Measured in turn, in one
process: the latency of one text, from text to logits, with one thread and with all threads; and the throughput of
`--texts` texts with all threads.

The pipeline has a copy of the encoder's weights (equal outputs are checked), the same truncation and a head of the same
size. It pools by its model class (first token and a dense layer), the run by its own setting; both are negligible
beside the encoder. The pipeline is measured with its default, one text at a time, and with the fastest of the batch
sizes 8, 16, 32, 64 and 128, padded to the longest text of a batch.
"""

import argparse
import itertools
import logging
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from measure import interleaved, ratio, report, timed
from omegaconf import OmegaConf
from transformers import AutoModelForSequenceClassification

from counterpoise.commands.onnx_export import export
from counterpoise.commands.predictor import load
from counterpoise.commands.run_config import PARTS
from counterpoise.commands.saved_run import load_run
from counterpoise.data.token_store import load_tokenizer
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.terminal import command_line

CONF = Path(__file__).resolve().parent.parent / "conf"
PIPELINE, BEST = "pipeline", "pipeline, best batch size"
BATCH_SIZES = (8, 16, 32, 64, 128)
TRIED = 128
"""Number of texts that select the best batch size."""


def write_run(run: Path, trained: Path | None) -> None:
    """Write a run folder to export: what is needed of a trained run, or an untrained one.

    Without splits.npz, export skips the scores of the test split, which are not needed here.
    """
    if trained is None:
        write_untrained_run(run)
        return
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        shutil.copy(trained / name, run / name)


def write_untrained_run(folder: Path, classes: int = 52) -> None:
    """Write a run folder of MiniLM with an untrained head: the parts that prediction needs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("train")
    config = {key: OmegaConf.to_container(composed[key], resolve=True) for key in PARTS}
    torch.manual_seed(0)
    labels = [f"class {i}" for i in range(classes)]
    model = Classifier(instantiate(composed.encoder).load(), None, Optim(), labels, np.zeros(classes), 1)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"labels": labels, "state_dict": model.state_dict()}, folder / "checkpoints" / "best.ckpt")


def pipeline(run: Path) -> Callable[[Sequence[str], int], Any]:
    """Return a function that classifies texts at a batch size, with a pipeline that has the encoder of the run."""
    model, config = load_run(run)
    backbone = model.encoder.backbone
    settings = backbone.config.__class__(**backbone.config.to_dict() | {"num_labels": len(model.labels)})
    peer = AutoModelForSequenceClassification.from_config(settings, attn_implementation="sdpa").eval()
    peer.base_model.load_state_dict(backbone.state_dict(), strict=False)
    ids = torch.arange(20, 40).view(2, 10)
    with torch.inference_mode():
        torch.testing.assert_close(peer.base_model(ids).last_hidden_state, backbone(ids).last_hidden_state)
    tokenizer = load_tokenizer(instantiate(config["encoder"]).locate())
    pipe = transformers.pipeline("text-classification", model=peer, tokenizer=tokenizer, device="cpu")
    truncation = {"truncation": True, "max_length": config["encoder"]["max_length"]}

    def classify(texts: Sequence[str], batch_size: int) -> Any:
        return pipe(texts[0] if len(texts) == 1 else list(texts), batch_size=batch_size, **truncation)

    return classify


def main() -> None:
    """Read the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run (default: untrained MiniLM)")
    parser.add_argument("--texts", type=int, default=1000, help="number of texts for the throughput (default: 1000)")
    parser.add_argument("--calls", type=int, default=200, help="number of calls for the latency (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the throughput (default: 3)")
    parser.add_argument("--json", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.getLogger("counterpoise").setLevel(logging.ERROR)
    source = instantiate(OmegaConf.load(CONF / "data" / "reuters_r52.yaml"))
    source.prepare()
    corpus = source.load()["test"].texts.to_pylist()
    texts = list(itertools.islice(itertools.cycle(corpus), arguments.texts))

    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        write_run(run, arguments.run)
        folders = {"ours, PyTorch": run, "ours, ONNX": run / "onnx", "ours, ONNX int8": run / "onnx-int8"}
        for name in ("onnx", "onnx-int8"):
            export(run, run / name, int8=name == "onnx-int8")
        classify, all_threads = pipeline(run), torch.get_num_threads()
        rows = []
        for threads in sorted({1, all_threads}):
            torch.set_num_threads(threads)
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read when an exported model is loaded
            ours = {name: load(folder) for name, folder in folders.items()}
            latencies = _latencies(ours, classify, corpus, arguments.calls)
            throughputs = _throughputs(ours, classify, texts, arguments.repeats) if threads == all_threads else {}
            rows += _rows(threads, latencies, throughputs)
        tokens = statistics.mean(len(ids) for ids in ours["ours, PyTorch"].tokenise(corpus))
    title = f"inference, {arguments.texts:,} texts of {tokens:.0f} tokens on average"
    report(title, rows, arguments.json)


def _latencies(ours: dict, classify: Callable, texts: Sequence[str], calls: int) -> dict[str, list[float]]:
    """Return milliseconds per call with one text. All candidates get the same texts."""
    warm_up = 20

    def latency(call: Callable[[str], object]) -> Callable[[], float]:
        stream = itertools.cycle(texts)
        for text in itertools.islice(stream, warm_up):
            call(text)
        return lambda: 1000 * timed(lambda: call(next(stream)))

    candidates = {name: latency(lambda text, model=model: model([text])) for name, model in ours.items()}
    return interleaved(candidates | {PIPELINE: latency(lambda text: classify([text], 1))}, calls)


def _throughputs(ours: dict, classify: Callable, texts: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Return texts per second."""
    tried = {size: timed(lambda size=size: classify(texts[:TRIED], size)) for size in BATCH_SIZES}
    best = min(tried, key=lambda size: tried[size])
    calls: dict[str, Callable[[], object]] = {
        **{name: lambda model=model: model(texts) for name, model in ours.items()},
        PIPELINE: lambda: classify(texts, 1),
        f"{BEST} ({best})": lambda: classify(texts, best),
    }
    return interleaved({name: lambda call=call: len(texts) / timed(call) for name, call in calls.items()}, repeats)


def _rows(threads: int, latencies: dict[str, list[float]], throughputs: dict[str, list[float]]) -> list[dict]:
    best = next((values for name, values in throughputs.items() if name.startswith(BEST)), None)
    rows = []
    for name in dict.fromkeys([*latencies, *throughputs]):
        times, speeds = latencies.get(name), throughputs.get(name)
        least = most = None
        if speeds is not None:
            _, least, most = ratio(speeds, best)
        rows.append(
            {
                "": name,
                "threads": threads,
                "p50 ms": np.median(times).item() if times else None,
                "p99 ms": np.percentile(times, 99).item() if times else None,
                "p50, pipeline / this": np.median(latencies[PIPELINE]).item() / np.median(times).item()
                if times
                else None,
                "texts/s": statistics.median(speeds) if speeds else None,
                "this / pipeline": ratio(speeds, throughputs[PIPELINE])[0] if speeds else None,
                "this / best pipeline": ratio(speeds, best)[0] if speeds else None,
                "min": least,
                "max": most,
            }
        )
    return rows


if __name__ == "__main__":
    command_line(main)
