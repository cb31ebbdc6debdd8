"""The linear baseline of runs, from the command line to the comparison."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from commandline import call, run, setting
from conftest import write_texts
from counterpoise.analysis import leaderboard
from counterpoise.analysis.baseline import METRIC, describe
from counterpoise.analysis.leaderboard import BASELINE, BASELINE_PREDICTIONS
from counterpoise.commands import compare
from counterpoise.data.cache import cache_root

pytestmark = pytest.mark.e2e


@pytest.fixture
def single(tmp_path: Path, tiny_encoder: Path) -> list[str]:
    counts = {"alpha": 120, "beta": 60, "gamma": 30, "delta": 12}
    files = {
        "train": write_texts(tmp_path / "train.csv", counts),
        "test": write_texts(tmp_path / "test.csv", {label: n // 2 for label, n in counts.items()}, seed=1),
    }
    return [*setting(files, tiny_encoder), "trainer.max_epochs=1"]


@pytest.fixture
def multi(tagged: dict[str, Path], tiny_encoder: Path) -> list[str]:
    return [*setting(tagged, tiny_encoder), "data.label=labels", "trainer.max_epochs=1"]


@pytest.fixture(params=["single", "multi"])
def data(request) -> list[str]:
    return request.getfixturevalue(request.param)


def cached() -> list[Path]:
    return [path for path in (cache_root() / "baselines").glob("*") if path.is_dir()]


def test_the_baseline_stands_beside_the_results_and_changes_none_of_them(data, tmp_path):
    done = run(tmp_path / "run", *data)
    assert done.code == 0, done.err
    section = done.metrics["baseline"]
    # Distances to a plane are no log-odds, so there is no loss.
    assert set(section["test"]) == set(done.metrics["test"]) - {"loss"}
    # The classes have words of their own: a linear model finds them, a few steps of a tiny encoder do not.
    assert section["test"]["macro_f1"] > 0.9
    assert section["difference"][METRIC]["difference"] == pytest.approx(
        done.metrics["test"]["macro_f1"] - section["test"]["macro_f1"]
    )
    assert section["difference"][METRIC]["p"] < 0.05
    assert "TF-IDF" in done.out
    assert re.sub(r"\s+", " ", describe(section["difference"])) in re.sub(r"\s+", " ", done.out)
    assert "linear baseline" in (done.folder / "report.html").read_text()

    without = run(tmp_path / "without", *data, "baseline=none", report=False)
    assert without.code == 0, without.err
    assert "baseline" not in without.metrics
    assert not (without.folder / BASELINE_PREDICTIONS).exists()
    assert {key: value for key, value in done.metrics.items() if key not in ("baseline", "best_checkpoint")} == {
        key: value for key, value in without.metrics.items() if key != "best_checkpoint"
    }
    assert pq.read_table(done.folder / "predictions.parquet").equals(
        pq.read_table(without.folder / "predictions.parquet")
    )


def test_the_predictions_of_the_baseline_have_the_format_and_the_texts_of_those_of_the_run(data, tmp_path):
    done = run(tmp_path / "run", *data, report=False)
    own, baseline = (pq.read_table(done.folder / name) for name in ("predictions.parquet", BASELINE_PREDICTIONS))
    assert own.schema == baseline.schema
    truth = "labels" if "labels" in own.column_names else "label"
    assert own.select(["id", truth]).equals(baseline.select(["id", truth]))


def test_debug_fast_fits_no_baseline(single, tmp_path):
    done = run(tmp_path / "run", *single, "debug=fast", report=False)
    assert done.code == 0, done.err
    assert not cached()


def test_runs_on_the_same_splits_share_one_fit_and_other_settings_or_data_have_their_own(single, tmp_path):
    fits = []
    for number, changes in enumerate(
        [
            [],
            ["seed=1", "strategy=weighted"],
            ["baseline.beta=0"],
            ["loader.split_seed=1"],
            ["train=probe", "trainer.max_epochs=5"],
        ]
    ):
        done = run(tmp_path / str(number), *single, *changes, report=False)
        assert done.code == 0, done.err
        fits.append(len(cached()))
    assert fits == [1, 1, 2, 3, 3]


def test_a_sweep_ranks_and_compares_the_baseline_once(data, tmp_path, monkeypatch, capsys):
    for number, changes in enumerate((["strategy=plain", "seed=0"], ["strategy=plain", "seed=1"], ["seed=0"])):
        assert run(tmp_path / "sweep" / str(number), *data, *changes, report=False).code == 0
    table = leaderboard.write(tmp_path / "sweep", final=True)
    assert table.job.tolist() == ["0", "1", "2", "baseline"]
    row = table.iloc[-1]
    assert (row.setting, row.state, row.test_set) == (BASELINE, "finished", "A")
    metrics = json.loads((tmp_path / "sweep" / "0" / "metrics.json").read_text())["baseline"]["test"]
    assert row.macro_f1 == pytest.approx(metrics["macro_f1"])
    assert len(pd.read_csv(tmp_path / "sweep" / "leaderboard.csv")) == 4

    assert call(compare.main, monkeypatch, tmp_path / "sweep") == 0
    compared = pd.read_csv(tmp_path / "sweep" / "comparison.csv")
    scores = compared[(compared.group == BASELINE) & (compared.metric == "macro_f1")]
    assert scores["mean"].item() == pytest.approx(metrics["macro_f1"])
    assert scores.seeds.item() == 1
    pairs = pd.read_csv(tmp_path / "sweep" / "pairs.csv")
    with_baseline = (pairs.a == BASELINE) | (pairs.b == BASELINE)
    assert with_baseline.sum() == 2
    assert not pairs.methods[with_baseline].any()
    assert "deterministic" in capsys.readouterr().out
    assert BASELINE in (tmp_path / "sweep" / "comparison.html").read_text()


def test_one_run_is_compared_with_its_baseline(single, tmp_path, monkeypatch):
    done = run(tmp_path / "run", *single, report=False)
    assert call(compare.main, monkeypatch, done.folder, "--output", tmp_path / "output") == 0
    difference = pd.read_csv(tmp_path / "output" / "pairs.csv")
    assert set(difference.a) | set(difference.b) >= {BASELINE}
    found = done.metrics["baseline"]["difference"][METRIC]
    assert abs(difference.difference.item()) == pytest.approx(abs(found["difference"]))
    assert difference.p.item() == pytest.approx(found["p"])


@pytest.mark.parametrize("rule", [["decision.thresholds=global"], ["decision.thresholds=0.3"], ["decision.top_k=2"]])
def test_the_baseline_follows_the_decision_rule_of_the_run(rule, multi, tmp_path):
    done = run(tmp_path / "run", *multi, *rule, report=False)
    assert done.code == 0, done.err
    decided = pq.read_table(done.folder / BASELINE_PREDICTIONS)["predictions"].to_pylist()
    assert done.metrics["baseline"]["test"]["macro_f1"] > 0.5
    if "top_k" in rule[0]:
        assert {len(labels) for labels in decided} == {2}


def test_a_setting_that_is_out_of_range_stops_the_run_before_training(single, tmp_path):
    done = run(tmp_path / "run", *single, "baseline.word_ngrams=[2,1]")
    assert done.code == 2
    assert "baseline.word_ngrams" in done.error
    assert not list(done.folder.glob("checkpoints/*"))


@pytest.mark.parametrize("override", ["baseline.char_ngrams=null", "baseline.word_ngrams=null"])
def test_words_or_characters_alone_are_accepted(override, single, tmp_path):
    done = run(tmp_path / "run", *single, override, report=False)
    assert done.code == 0, done.err
    assert np.isfinite(done.metrics["baseline"]["test"]["macro_f1"])
    assert yaml.safe_load((done.folder / "config.yaml").read_text())["baseline"]["min_df"] == 2
