"""The baseline to beat: TF-IDF and a linear SVM with balanced class weights, on the test splits of Reuters R8 and R52.

`python benchmarks/linear_svc.py`
"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

CONF = Path(__file__).parent.parent / "conf" / "data"


def main() -> None:
    """Prints accuracy and macro-F1 of both data sets."""
    for name in ("reuters_r8", "reuters_r52"):
        source = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
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


if __name__ == "__main__":
    main()
