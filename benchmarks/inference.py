"""Inference on a CPU: ours (PyTorch, ONNX, ONNX in int8) against the text-classification pipeline of transformers.

`python benchmarks/inference.py` takes MiniLM with a head of 52 classes that is not trained, `python
benchmarks/inference.py RUN` a finished run; either way the texts are Reuters R52's, test split, as often as is needed.
Measured in turn, in one process: the latency of one text, from the text to its logits, with one thread and with all,
and with all threads the throughput of `--texts` texts.

The pipeline gets the same encoder, its weights copied (that its outputs are ours is checked), the same cut of the texts
and a head as large. It pools as its model class does, over the first token and a dense layer of the encoder's width,
where ours may take the mean: neither costs anything beside the encoder. It is run as it comes, one text at a time, and
with the fastest of the batch sizes 8, 16, 32, 64 and 128, padded to the longest text of a batch.
"""

import argparse
import itertools
import logging
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

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
from counterpoise.commands.saved_run import load_run
from counterpoise.data.token_store import load_tokenizer
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.terminal import command_line

CONF = Path(__file__).resolve().parent.parent / "conf"
PIPELINE, BEST = "pipeline", "pipeline, best batch size"
BATCH_SIZES = (8, 16, 32, 64, 128)
TRIED = 128
"""Texts with which the best batch size is found."""


def untrained(folder: Path, classes: int = 52) -> None:
    """Writes what of a run folder predicting needs: MiniLM with a head that is not trained."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        encoder = OmegaConf.to_container(compose("train").encoder, resolve=True)
    torch.manual_seed(0)
    labels = [f"class {i}" for i in range(classes)]
    model = Classifier(instantiate(encoder).load(), torch.nn.Identity(), Optim(), labels, np.zeros(classes), 1)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"encoder": encoder, "data": {}}))
    torch.save({"labels": labels, "state_dict": model.state_dict()}, folder / "checkpoints" / "best.ckpt")


def pipeline(run: Path) -> Callable[[Sequence[str], int], None]:
    """Returns the pipeline with the encoder of the run: what it does with texts at a batch size."""
    model, config = load_run(run)
    backbone = model.encoder.backbone
    settings = backbone.config.__class__(**backbone.config.to_dict() | {"num_labels": len(model.labels)})
    peer = AutoModelForSequenceClassification.from_config(settings, attn_implementation="sdpa").eval()
    peer.base_model.load_state_dict(backbone.state_dict(), strict=False)
    ids = torch.arange(20, 40).view(2, 10)
    with torch.inference_mode():
        torch.testing.assert_close(peer.base_model(ids).last_hidden_state, backbone(ids).last_hidden_state)
    tokenizer = load_tokenizer(instantiate(config["encoder"]).locate())
    made = transformers.pipeline("text-classification", model=peer, tokenizer=tokenizer, device="cpu")
    cut = {"truncation": True, "max_length": config["encoder"]["max_length"]}

    def classify(texts: Sequence[str], batch_size: int) -> None:
        made(texts[0] if len(texts) == 1 else list(texts), batch_size=batch_size, **cut)

    return classify


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="folder of a finished run (default: MiniLM, not trained)")
    parser.add_argument("--texts", type=int, default=1000, help="texts of the throughput (default: 1000)")
    parser.add_argument("--calls", type=int, default=200, help="calls of the latency (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="of the throughput (default: 3)")
    parser.add_argument("--json", type=Path, help="file to write the table to as well")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    logging.getLogger("counterpoise").setLevel(logging.ERROR)
    source = instantiate(OmegaConf.load(CONF / "data" / "reuters_r52.yaml"))
    source.prepare()
    known = source.load()["test"].texts.to_pylist()
    texts = list(itertools.islice(itertools.cycle(known), arguments.texts))

    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        if arguments.run:
            # Without the splits of the run an export does not measure its scores, which is not wanted here.
            (run / "checkpoints").mkdir(parents=True)
            for name in ("config.yaml", "checkpoints/best.ckpt"):
                shutil.copy(arguments.run / name, run / name)
        else:
            untrained(run)
        folders = {"ours, PyTorch": run, "ours, ONNX": run / "onnx", "ours, ONNX int8": run / "onnx-int8"}
        for name in ("onnx", "onnx-int8"):
            export(run, run / name, int8=name == "onnx-int8")
        classify, every = pipeline(run), torch.get_num_threads()
        rows = []
        for threads in sorted({1, every}):
            torch.set_num_threads(threads)
            ours = {name: load(folder) for name, folder in folders.items()}
            latencies = _latencies(ours, classify, known, arguments.calls)
            throughputs = _throughputs(ours, classify, texts, arguments.repeats) if threads == every else {}
            rows += _rows(threads, latencies, throughputs)
        tokens = statistics.mean(len(ids) for ids in ours["ours, PyTorch"].tokenise(known))
    title = f"inference, {arguments.texts:,} texts of {tokens:.0f} tokens on average"
    report(title, rows, arguments.json)


def _latencies(ours: dict, classify: Callable, texts: Sequence[str], calls: int) -> dict[str, list[float]]:
    """Returns the milliseconds of calls with one text each, the same texts for all candidates."""
    warm_up = 20

    def each(call: Callable[[str], object]) -> Callable[[], float]:
        waiting = itertools.cycle(texts)
        for text in itertools.islice(waiting, warm_up):
            call(text)
        return lambda: 1000 * timed(lambda: call(next(waiting)))

    candidates = {name: each(lambda text, model=model: model([text])) for name, model in ours.items()}
    return interleaved(candidates | {PIPELINE: each(lambda text: classify([text], 1))}, calls)


def _throughputs(ours: dict, classify: Callable, texts: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Returns texts per second."""
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
                "least": least,
                "most": most,
            }
        )
    return rows


if __name__ == "__main__":
    command_line(main)
