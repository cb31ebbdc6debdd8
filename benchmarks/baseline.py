"""Scores of the linear TF-IDF baseline without training an encoder.

`python benchmarks/baseline.py experiment=r52`: any overrides of `train.py` that choose data, splits, decision and
baseline. Thresholds of multi-label data are tuned on the validation split, as in a run.
"""

import argparse
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.metrics import registry
from counterpoise.metrics.scoring import MultiLabelScoring, SingleLabelScoring
from counterpoise.terminal import command_line
from counterpoise.training.baseline import baseline_scoring, cached_logits, scores

CONF = Path(__file__).resolve().parent.parent / "conf"


def main() -> None:
    """Read the command line, fit the baseline and print its scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="overrides of train.py, such as experiment=r52 baseline.beta=0")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", parser.parse_args().overrides)
    if not config.get("baseline"):
        raise UserError("baseline=none leaves nothing to measure")
    source = instantiate(config.encoder)
    data = TextDataModule(
        instantiate(config.data), load_tokenizer(source.locate(), source.revision), seed=config.seed, **config.loader
    )
    data.prepare_data()
    data.setup()
    baseline = cached_logits(instantiate(config.baseline), data)
    bounds = instantiate(config.buckets)
    rule: SingleLabelScoring | MultiLabelScoring = SingleLabelScoring(data.counts, bounds)
    if data.task == "multi_label":
        rule = MultiLabelScoring(data.labels, data.counts, bounds, instantiate(config.decision))
    splits = {name: data.splits[name].targets for name in ("validation", "test")}
    own = baseline_scoring(baseline, rule, data.labels, splits["validation"])
    print(f"{baseline.settings}: {baseline.train_examples:,} training texts, {baseline.seconds:.1f} s")
    for name, targets in splits.items():
        measured = scores(own, baseline.logits[name], targets)
        shown = [metric for metric in registry.select(data.task, "results") if metric.name in measured]  # type: ignore[arg-type]
        print(f"{name}: {', '.join(f'{metric.title} {measured[metric.name]:.4f}' for metric in shown)}")


if __name__ == "__main__":
    command_line(main)
