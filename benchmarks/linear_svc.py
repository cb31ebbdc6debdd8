"""Linear baseline: TF-IDF and linear SVMs, evaluated on the test splits of the models.

`python benchmarks/linear_svc.py`: Reuters R8 and R52, words, balanced class weights.

`python benchmarks/linear_svc.py debtags`: one SVM per label, balanced and unweighted, on words, pairs of words and
3 to 5 characters. It accepts any multi-label `data=` and further overrides, as `train.py` does; `--run RUN` uses data
and splits of a run. Nothing is tuned, so the SVMs are also trained on the validation split unless `--train-only` is
given. Head, medium and tail follow the training split, as in a run. All of debtags takes many minutes; `--limit 3000`
trains on a random sample.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.svm import LinearSVC

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.splits import Vocabulary
from counterpoise.data.table import Split
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.metrics.multi_label import scores
from counterpoise.terminal import command_line

CONF = Path(__file__).resolve().parent.parent / "conf"
SHOWN = (
    *("micro_recall", "micro_f1", "macro_recall", "macro_f1", "head_f1", "medium_f1", "tail_f1", "map"),
    *("supported_labels", "predicted_per_text"),
)


def reuters() -> None:
    """Print accuracy and macro-F1 of R8 and R52."""
    for name in ("reuters_r8", "reuters_r52"):
        source = instantiate(OmegaConf.load(CONF / "data" / f"{name}.yaml"))
        source.prepare()
        splits = source.load()
        texts = {split: part.texts.to_pylist() for split, part in splits.items()}
        labels = {split: part.labels.to_pylist() for split, part in splits.items()}
        model = make_pipeline(
            TfidfVectorizer(),
            LinearSVC(class_weight="balanced", random_state=0),
        )
        predicted = model.fit(texts["train"], labels["train"]).predict(texts["test"])
        accuracy = accuracy_score(labels["test"], predicted)
        macro_f1 = f1_score(labels["test"], predicted, average="macro", zero_division=0)
        print(f"{name}: accuracy {accuracy:.4f}, macro-F1 {macro_f1:.4f}")


def multi_label(splits: dict[str, Split], train_only: bool = False, limit: int | None = None) -> None:
    """Print the test scores of one linear SVM per label, balanced and unweighted."""
    vocabulary = Vocabulary.of(splits["train"].labels)
    texts = {name: part.texts.to_pylist() for name, part in splits.items()}
    targets = {name: vocabulary.encode(part.labels) for name, part in splits.items()}
    counts = np.asarray(targets["train"].sum(axis=0)).ravel()
    fitted = ["train"] if train_only else ["train", "validation"]
    train_texts = [text for name in fitted for text in texts[name]]
    truth = np.concatenate([targets[name].toarray() for name in fitted])
    if limit is not None and limit < len(train_texts):
        rows = np.random.default_rng(0).choice(len(train_texts), limit, replace=False)
        train_texts, truth = [train_texts[row] for row in rows], truth[rows]
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
    )
    train, test = features.fit_transform(train_texts), features.transform(texts["test"])
    print(
        f"{len(train_texts):,} texts ({' + '.join(fitted)}), {train.shape[1]:,} features, {len(vocabulary)} labels; "
        f"{len(texts['test']):,} test texts"
    )
    for weight in ("balanced", None):
        start = time.monotonic()
        model = OneVsRestClassifier(LinearSVC(class_weight=weight, random_state=0), n_jobs=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Label .* is present in all training|Label not .* is present in all")
            logits = model.fit(train, truth).decision_function(test)
        # scikit-learn returns 0 for a label without training examples, which is above most other logits.
        logits[:, ~truth.any(axis=0)] = -np.inf
        measured = scores(logits > 0, logits, targets["test"], counts)
        shown = ", ".join(f"{name} {measured[name]:.4g}" for name in SHOWN if name in measured)
        print(f"{weight or 'unweighted'}: {shown} ({time.monotonic() - start:.0f} s)", flush=True)


def splits_of_run(run: Path) -> dict[str, Split]:
    """Return the splits of a run, read from its data source again."""
    if not (run / "splits.npz").is_file():
        raise UserError(f"{run} is not a run folder: it has no splits.npz")
    source = instantiate(yaml.safe_load((run / "config.yaml").read_text())["data"])
    source.prepare()
    loaded, parts = source.load(), {}
    for name, rows in np.load(run / "splits.npz").items():
        whole = loaded.get(name, loaded["train"])
        kept = np.isin(whole.rows, rows)
        if kept.sum() != len(rows):
            missing = len(rows) - kept.sum()
            raise UserError(f"{run}: {missing} of {len(rows)} rows of {name} are no longer in {whole.file}")
        parts[name] = select_rows(whole, kept)
    return parts


def splits_of_data(data: str, overrides: list[str]) -> dict[str, Split]:
    """Return the splits of `train.py data=DATA OVERRIDES`."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"data={data}", *overrides])
    tokenizer = load_tokenizer(instantiate(config.encoder).locate())
    module = TextDataModule(instantiate(config.data), tokenizer, seed=config.seed, **config.loader)
    module.prepare_data()
    module.setup()
    return {name: select_rows(part.split, np.isin(part.split.rows, part.rows)) for name, part in module.splits.items()}


def select_rows(split: Split, kept: np.ndarray) -> Split:
    """Return the selected rows of a multi-label split; `kept` is bool [N]."""
    if split.task != "multi_label":
        raise UserError(f"{split.file}: single-label data; this baseline is for multi-label data")
    return split.filter(kept)


def main() -> None:
    """Read the command line and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="multi-label data, as in data=debtags")
    parser.add_argument("overrides", nargs="*", help="further overrides, such as loader.split_seed=1")
    parser.add_argument("--run", type=Path, help="run folder whose data and splits are used")
    parser.add_argument("--train-only", action="store_true", help="do not train on the validation split")
    parser.add_argument("--limit", type=int, help="train on a random sample of this many texts")
    arguments = parser.parse_args()
    if arguments.run:
        splits = splits_of_run(arguments.run)
    elif arguments.data:
        splits = splits_of_data(arguments.data, arguments.overrides)
    else:
        return reuters()
    return multi_label(splits, arguments.train_only, arguments.limit)


if __name__ == "__main__":
    command_line(main)
