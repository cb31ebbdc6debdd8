import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import finished
from counterpoise.analysis.comparison_warnings import comparison_warnings
from counterpoise.analysis.runs import load_runs
from counterpoise.errors import UserError
from counterpoise.metrics.buckets import Bounds
from refusals import user_error


def names(runs) -> list[tuple[str, int | None]]:
    return [(run.group, run.seed) for run in runs]


def test_a_sweep_gives_its_finished_jobs_and_a_warning_about_the_others(tmp_path):
    sweep = finished.sweep(tmp_path / "sweep")
    finished.run(sweep / "5", "strategy=y", state="running")
    runs, notes = load_runs([sweep])
    assert names(runs) == [("plain", 0), ("plain", 1), ("combined", 0), ("combined", 1)]
    (note,) = notes
    assert str(sweep) in note
    assert "4 (experiment=r8 strategy=[x]: failed, no luck); 5 (strategy=y: did not finish)" in note


def test_a_run_is_read_from_its_files(tmp_path):
    config = {"seed": 7, "buckets": {"_target_": "x", "head_min": 61, "tail_max": 5}}
    (run,), notes = load_runs([finished.run(tmp_path / "0", wrong={1: 3}, config=config, probe=True, seconds=12)])
    assert notes == []
    assert (run.seed, run.bounds, run.probe) == (7, Bounds(tail_max=5, head_min=61), True)
    assert (run.seconds, run.epochs, run.steps) == (12, 2, 100)
    assert run.labels == finished.LABELS
    assert run.counts.tolist() == finished.COUNTS.tolist()
    truth, decided = run.truth.toarray(), run.decided.toarray()
    np.testing.assert_array_equal(truth, np.eye(5, dtype=bool)[finished.TRUTH])
    assert (truth != decided).any(axis=1).sum() == 3
    assert run.ids.to_pylist() == [str(n) for n in range(100)]


def test_a_run_without_configuration_has_default_bounds_and_is_no_probe(tmp_path):
    (finished.run(tmp_path / "0") / "config.yaml").unlink()
    (run,), _ = load_runs([tmp_path / "0"])
    assert (run.seed, run.bounds, run.probe) == (None, Bounds(), False)


def test_multi_label_predictions_are_read(tmp_path):
    (run,), _ = load_runs([finished.multi_label_run(tmp_path / "0")])
    assert run.multi_label
    assert set(np.diff(run.truth.indptr)) > {0, 1, 2}
    table = pq.read_table(tmp_path / "0" / "predictions.parquet").to_pydict()
    for cells, lists in ((run.truth, table["labels"]), (run.decided, table["predictions"])):
        found = [{finished.LABELS[c] for c in row} for row in np.split(cells.indices, cells.indptr[1:-1])]
        assert found == list(map(set, lists))
        assert cells.has_sorted_indices


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data=r8 strategy=plain", "data=r8 strategy=ldam"], ["plain", "ldam"]),
        (["strategy=plain", "strategy=plain optim.lr=1"], ["default", "optim.lr=1"]),
        (["strategy=plain", "optim.lr=1 strategy=ldam"], ["plain", "ldam optim.lr=1"]),
        (["a=1 strategy=ldam", "a=2 strategy=ldam"], ["a=1", "a=2"]),
        (["a=1 b=1", "b=1 a=1 seed=3"], ["a=1 b=1", "a=1 b=1"]),
        (["data=r8 strategy=ldam"], ["ldam"]),
        (["data=r8"], ["data=r8"]),
        ([""], ["default"]),
    ],
)
def test_groups_are_named_by_their_distinguishing_overrides(tmp_path, settings, expected):
    folders = [finished.run(tmp_path / str(n), *setting.split()) for n, setting in enumerate(settings)]
    assert [run.group for run in load_runs(folders)[0]] == expected


def test_a_name_makes_a_group_of_runs_or_of_a_sweep_over_seeds(tmp_path):
    for seed in range(2):
        finished.run(tmp_path / "seeds" / str(seed), "strategy=ldam", f"seed={seed}")
    other = finished.run(tmp_path / "a=b", "strategy=plain", "seed=4")
    runs, _ = load_runs([f"mine={tmp_path / 'seeds'}", f"mine={other}"])
    assert names(runs) == [("mine", 0), ("mine", 1), ("mine", 4)]
    assert names(load_runs([other])[0]) == [("plain", 4)]


def test_a_repeated_run_counts_once_and_keeps_its_name(tmp_path):
    sweep = finished.sweep(tmp_path / "sweep")
    runs, _ = load_runs([f"first={sweep / '0'}", sweep, sweep / "2", f"first={sweep}/../sweep/0"])
    assert names(runs) == [("first", 0), ("plain", 1), ("combined", 0), ("combined", 1)]


def test_a_given_name_cannot_equal_the_name_of_another_setting(tmp_path):
    combined = [finished.run(tmp_path / f"c{seed}", "strategy=combined", f"seed={seed}") for seed in range(2)]
    plain = [finished.run(tmp_path / f"p{seed}", "strategy=plain", f"seed={seed}") for seed in range(2)]
    error = user_error(load_runs, [f"plain={combined[0]}", plain[0]])
    assert f"plain2={plain[0]}" in error
    assert names(load_runs([f"plain={plain[0]}", plain[1]])[0]) == [("plain", 0), ("plain", 1)]
    assert names(load_runs([f"plain={combined[0]}", f"plain2={plain[0]}"])[0]) == [("plain", 0), ("plain2", 0)]


def test_a_group_with_several_settings_gives_a_warning(tmp_path):
    same = [finished.run(tmp_path / str(seed), "b=1", "a=1", f"seed={seed}") for seed in range(2)]
    other = finished.run(tmp_path / "other", "a=2", "seed=2")

    def warned(*folders) -> list[str]:
        runs, _ = load_runs([f"mine={folder}" for folder in folders])
        return comparison_warnings({"mine": runs}, runs[0])

    assert warned(*same) == []
    assert ["a=1 b=1; a=2" in warning for warning in warned(*same, other)] == [True]


def broken(tmp_path):
    finished.run(tmp_path / "good")
    finished.run(tmp_path / "failed", state="failed")
    finished.run(tmp_path / "killed", state="running")
    finished.sweep(tmp_path / "sweep")
    (tmp_path / "empty").mkdir()
    for name in ("metrics.json", "per_class.csv", "predictions.parquet"):
        (finished.run(tmp_path / f"no {name}") / name).unlink()
    (finished.run(tmp_path / "damaged") / "predictions.parquet").write_bytes(b"PAR1")
    finished.multi_label_run(tmp_path / "labels")
    finished.run(tmp_path / "fewer", truth=finished.TRUTH[:90])
    finished.run(tmp_path / "ids", ids=[f"x{n}" for n in range(100)])
    finished.run(tmp_path / "truth", truth=np.where(np.arange(100) == 7, 2, finished.TRUTH))
    finished.run(tmp_path / "classes", labels=["NA", "1", "c", "d", "f"])
    path = finished.run(tmp_path / "unknown") / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", pa.array([None] * 100, pa.string())), path)
    path = finished.run(tmp_path / "foreign") / "predictions.parquet"
    pq.write_table(table.set_column(2, "prediction", pa.array(["z"] * 100)), path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "^absent does not exist"),
        (["plain=absent"], "^absent does not exist"),
        (["empty"], "^empty "),
        (["failed"], "^failed is not a finished run: .*no luck"),
        (["killed"], "^killed is not a finished run: it is running"),
        (["no metrics.json"], "^no metrics.json .*unreadable metrics.json"),
        (["no per_class.csv"], "no per_class.csv .*: per_class.csv"),
        (["no predictions.parquet"], "no predictions.parquet .*: predictions.parquet"),
        (["damaged"], "damaged is damaged or of another version: "),
        (["name=sweep"], "^sweep .*several settings"),
        (["good", "labels"], "good and .*labels .*task: single-label and multi-label"),
        (["good", "fewer"], "good and .*fewer .*test texts: 100 and 90"),
        (["good", "ids"], "good and .*ids .*ids of the test texts"),
        (["good", "truth"], "good and .*truth .*true labels of 1 test texts.*'7'"),
        (["good", "classes"], "good and .*classes .*classes: 5 and 5; .*'e'"),
        (["unknown"], "unknown: predictions.parquet, label: 100 "),
        (["foreign"], "foreign: predictions.parquet, prediction: .*per_class.csv"),
    ],
)
def test_runs_that_cannot_be_compared_raise_one_line_with_their_folders(tmp_path, monkeypatch, arguments, message):
    broken(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load_runs(arguments)
    assert "\n" not in str(error.value)


def test_a_folder_with_hydra_files_only_is_not_a_finished_run(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(["seed=1"]))
    with pytest.raises(UserError, match="failed, ended without a result"):
        load_runs([tmp_path])


@pytest.mark.parametrize("jobs", ["02", "0123", "1"])
def test_data_warnings_of_the_runs_are_shown_once_and_with_their_groups(tmp_path, jobs):
    sweep = finished.sweep(tmp_path / "sweep")
    for job in jobs:
        path = sweep / job / "metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_warnings": ["97% of train are long"]}))
    runs, _ = load_runs([sweep])
    groups = {name: [run for run in runs if run.group == name] for name in ("plain", "combined")}
    [line] = comparison_warnings(groups, runs[0])
    assert "97% of train are long" in line
    assert ("plain" in line) == (jobs == "1")


@pytest.mark.parametrize(
    ("precisions", "warns"),
    [
        (("bf16-mixed",) * 4, False),
        (("bf16-mixed", None, "bf16-mixed", None), False),
        (("bf16-mixed", "bf16-mixed", "32-true", "32-true"), True),
        (("bf16-mixed", "32-true", "32-true", "32-true"), True),
    ],
)
def test_runs_in_different_precisions_give_a_warning(precisions, warns, tmp_path):
    sweep = finished.sweep(tmp_path / "sweep")
    for job, precision in enumerate(precisions):
        path = sweep / str(job) / "metrics.json"
        known = {"precision": precision} if precision else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | known))
    runs, _ = load_runs([sweep])
    groups = {name: [run for run in runs if run.group == name] for name in ("plain", "combined")}
    warnings = comparison_warnings(groups, runs[0])
    assert len(warnings) == warns
    assert all("bf16-mixed: plain" in line and "32-true: " in line for line in warnings)


def test_runs_on_folds_are_one_group_of_different_runs(tmp_path):
    for fold in range(3):
        config = {"seed": 0, "loader": {"folds": 3, "fold": fold}, "buckets": {}}
        finished.run(tmp_path / str(fold), "loader.folds=3", f"loader.fold={fold}", config=config)
    runs, _ = load_runs([tmp_path])
    assert {run.group for run in runs} == {"default"} or {run.group for run in runs} == {"loader.folds=3"}
    assert [run.fold for run in runs] == [0, 1, 2]
    assert not [warning for warning in comparison_warnings({"folds": runs}, runs[0]) if "seed" in warning]
