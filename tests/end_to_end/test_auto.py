"""`train.py -m sweep=auto`: candidates within a time budget, combined into one exported model."""

import json

import pytest

from commandline import run, setting
from counterpoise.commands.predictor import load

CANDIDATES = 'hydra.sweeper.candidates=["strategy=plain","strategy=ldam"]'


def test_the_best_runs_become_one_exported_model(texts, tiny_encoder, tmp_path):
    overrides = (*setting(texts, tiny_encoder), "baseline=tfidf", f"hydra.sweep.dir={tmp_path}")
    rounds = ("hydra.sweeper.max_rounds=2", "hydra/launcher=basic")  # without the seconds that processes take to start
    done = run(tmp_path, "-m", "sweep=auto", "budget=10m", CANDIDATES, *rounds, *overrides)
    assert done.code == 0, done.err
    overrides = [json.loads((tmp_path / str(job) / "status.json").read_text())["overrides"] for job in range(3)]
    assert [each[-3] for each in overrides] == ["seed=0", "seed=0", "seed=1"]
    assert [each[-1] for each in overrides] == ["loader.fold=0", "loader.fold=0", "loader.fold=1"]
    assert not (tmp_path / "3").exists()
    ensemble = tmp_path / "ensemble"
    assert len(json.loads((ensemble / "ensemble.json").read_text())["members"]) == 3
    assert (ensemble / "report.html").is_file()
    assert "sweep=auto took" in done.out
    assert load(ensemble / "onnx")(["alpha1 word2"]).shape == (1, len(load(ensemble).labels))


@pytest.mark.parametrize(
    ("override", "message"),
    [("seed=1", "chooses seed itself"), ("strategy=plain", "chooses strategy itself"),
     ("dropout=0.1,0.2", "one value of each key"), ("budget=soon", "budget=soon"),
     ("hydra.sweeper.candidates=[1]", "hydra.sweeper.candidates")],
)  # fmt: skip
def test_settings_of_the_search_itself_are_refused(override, message, texts, tiny_encoder, tmp_path):
    overrides = [each for each in setting(texts, tiny_encoder) if not each.startswith("seed=")]
    done = run(tmp_path, "-m", "sweep=auto", *overrides, override, f"hydra.sweep.dir={tmp_path}/sweep")
    assert done.code == 2, done.out + done.err
    assert message in done.error
    assert not (tmp_path / "sweep" / "0").exists()
