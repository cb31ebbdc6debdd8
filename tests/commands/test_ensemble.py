"""`python -m counterpoise.ensemble`: runs and a linear model combined into one model."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from commandline import call, imported_by, run, setting
from counterpoise.analysis import leaderboard
from counterpoise.commands import compare, ensemble, evaluate, predict
from counterpoise.commands.predictor import load
from counterpoise.errors import UserError

TASKS = ("single_label", "multi_label")


@pytest.fixture(scope="module", params=TASKS)
def runs(request, tmp_path_factory, texts, tagged, tiny_encoder):
    """Two runs of a task, and the file that they were tested on."""
    files, own = (texts, []) if request.param == "single_label" else (tagged, ["data.label=labels"])
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path_factory.mktemp("run"))
        outcome = run(folders[-1], *setting(files, tiny_encoder), *own, f"seed={seed}", "baseline=tfidf")
        assert outcome.code == 0, outcome.err
    return folders, files["test"]


@pytest.fixture(scope="module")
def combined(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "ensemble"
    with pytest.MonkeyPatch.context() as patch:
        assert call(ensemble.main, patch, *runs[0], "--output", folder) == 0
    return folder


def logits_of(folder):
    with np.load(folder / "logits.npz") as saved:
        return saved["test"]


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_equal_weights_without_a_linear_model_give_the_mean_of_standardised_logits(runs, tmp_path, monkeypatch):
    output = tmp_path / "ensemble"
    assert call(ensemble.main, monkeypatch, *runs[0], "--output", output, "--baseline-weight", 0) == 0
    content = json.loads((output / "ensemble.json").read_text())
    assert content["baseline"] is None
    assert not (output / "baseline").exists()
    expected = sum(f * logits_of(each) for f, each in zip(content["factors"], runs[0], strict=True))
    np.testing.assert_allclose(logits_of(output), expected, rtol=1e-4, atol=1e-5)


def test_predictions_of_the_folder_are_those_of_its_test(combined, runs, tmp_path, monkeypatch):
    output = tmp_path / "predictions.parquet"
    assert call(predict.main, monkeypatch, combined, runs[1], "--output", output) == 0
    column = "predictions" if (combined / "thresholds.json").exists() else "prediction"
    tested = pq.read_table(combined / "predictions.parquet")[column]
    assert pq.read_table(output)[column].to_pylist() == tested.to_pylist()


def test_the_folder_is_evaluated_and_compared_like_a_run(combined, runs, tmp_path, monkeypatch):
    output = tmp_path / "evaluation"
    assert call(evaluate.main, monkeypatch, combined, runs[1], "--output", output) == 0
    ours, theirs = metrics_of(output)["test"], metrics_of(combined)["test"]
    assert ours == {name: pytest.approx(value, abs=1e-4, nan_ok=True) for name, value in theirs.items()}
    assert call(compare.main, monkeypatch, *runs[0], f"both={combined}", "--output", tmp_path / "comparison") == 0


def test_the_weight_was_chosen_on_validation(combined):
    section = metrics_of(combined)["ensemble"]
    tried = section["validation_by_weight"]
    assert tried[f"{section['baseline_weight']:.1f}"] == max(tried.values())
    assert [each["name"] for each in section["members"]][-1] == "linear model"


@pytest.mark.parametrize(
    "runs", [pytest.param("single_label", marks=pytest.mark.soak), "multi_label"], indirect=True, scope="module"
)
def test_an_exported_ensemble_has_the_same_logits(combined, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from counterpoise.commands.onnx_export import export

    content = export(combined, tmp_path / "onnx")
    texts = ["alpha1 word2", "beta1 word3 word4", ""]
    np.testing.assert_allclose(load(tmp_path / "onnx")(texts), load(combined)(texts), atol=1e-3)
    assert content["test"]["fp32"]["macro_f1"] == pytest.approx(metrics_of(combined)["test"]["macro_f1"], abs=1e-4)
    predicting = "import counterpoise; counterpoise.load(sys.argv[1]).predict(['alpha1'])"
    imported = imported_by(predicting, tmp_path / "onnx")
    assert "sklearn" in imported  # for the linear model
    assert not imported & {"torch", "pytorch_lightning", "transformers"}


@pytest.mark.parametrize("task", TASKS)
def test_folds_are_tuned_on_all_texts_that_a_run_was_not_trained_on(
    task, tmp_path, texts, tagged, tiny_encoder, monkeypatch
):
    files, own = (texts, []) if task == "single_label" else (tagged, ["data.label=labels"])
    command = [*setting(files, tiny_encoder), *own, "loader.folds=2", "baseline=tfidf"]
    for fold in (0, 1):
        assert run(tmp_path / f"sweep{fold}", *command, f"loader.fold={fold}").code == 0
    runs, output = [tmp_path / f"sweep{fold}" for fold in (0, 1)], tmp_path / "ensemble"
    assert call(ensemble.main, monkeypatch, *runs, "--output", output) == 0
    with np.load(output / "logits.npz") as combined:
        held_out = len(combined["validation"])
    parts = [np.load(each / "splits.npz") for each in runs]
    assert held_out == sum(len(each["validation"]) for each in parts)
    assert not set(parts[0]["validation"]) & set(parts[1]["validation"])
    content = json.loads((output / "ensemble.json").read_text())
    assert content["baseline"] is not None
    logits = load(output)(["alpha1 word2"])
    assert np.isfinite(logits).all()


def test_the_folder_does_not_need_the_runs(runs, tmp_path, monkeypatch):
    copies = [shutil.copytree(each, tmp_path / each.name) for each in runs[0]]
    output = tmp_path / "ensemble"
    assert call(ensemble.main, monkeypatch, *copies, "--output", output) == 0
    before = load(output)(["alpha1 word2"])
    for each in copies:
        shutil.rmtree(each)
    np.testing.assert_array_equal(load(output)(["alpha1 word2"]), before)


def rewritten(name, change):
    """Return a function that changes the arrays of a file of a run."""

    def damage(run):
        with np.load(run / name) as saved:
            parts = dict(saved)
        change(parts)
        np.savez(run / name, **parts)

    return damage


def reset_weights(run):
    path = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {name: each.flip(0) for name, each in checkpoint["state_dict"].items()}
    path.unlink()
    torch.save(checkpoint, path)


def set_config(group, key, value):
    """Return a function that changes the configuration of a run."""

    def damage(run):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config[group][key] = value
        (run / "config.yaml").write_text(yaml.safe_dump(config))

    return damage


DAMAGE = {
    "another validation split": rewritten(
        "splits.npz", lambda parts: parts.update(validation=parts["validation"][:-1])
    ),
    "not finite": rewritten("logits.npz", lambda parts: parts["test"].fill(np.nan)),
    "all logits are equal": rewritten("logits.npz", lambda parts: parts["validation"].fill(1)),
    "no logits.npz": lambda run: (run / "logits.npz").unlink(),
    "no checkpoints/best.ckpt": lambda run: (run / "checkpoints" / "best.ckpt").unlink(),
    "not a finished run": lambda run: (run / "status.json").write_text('{"state": "failed", "overrides": []}'),
    "is an ensemble": lambda run: (run / "ensemble.json").write_text("{}"),
    "data.text": set_config("data", "text", "other"),
    "loader.split_seed": set_config("loader", "split_seed", 5),
    "buckets.head_min": set_config("buckets", "head_min", 7),
    "decision.top_k": set_config("decision", "top_k", 3),
    "other logits": reset_weights,
    "training texts have changed": lambda run: (run / "balance.csv").write_text(
        "".join(f"{line.partition(',')[0]},{'count' if row == 0 else 1}\n" for row, line in
                enumerate((run / "balance.csv").read_text().splitlines()))
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", DAMAGE)
def test_runs_that_do_not_fit_are_refused(runs, tmp_path, monkeypatch, capsys, message):
    copy = shutil.copytree(runs[0][1], tmp_path / "copy")
    DAMAGE[message](copy)
    assert call(ensemble.main, monkeypatch, runs[0][0], copy, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_the_runs_that_are_written_in_place_do_not_change_the_ensemble(runs, tmp_path, monkeypatch):
    copy = shutil.copytree(runs[0][0], tmp_path / "copy")
    output = tmp_path / "out"
    assert call(ensemble.main, monkeypatch, copy, "--output", output) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for path in copy.iterdir():
        if path.is_file():
            path.write_bytes(b"changed")
    assert {path: path.read_bytes() for path in before} == before


def test_a_sweep_can_be_combined_again_and_lists_no_ensemble_as_a_job(runs, tmp_path, monkeypatch):
    for number, run_folder in enumerate(runs[0]):
        shutil.copytree(run_folder, tmp_path / "sweep" / str(number))
    for _ in range(2):
        assert call(ensemble.main, monkeypatch, tmp_path / "sweep") == 0
    assert len(json.loads((tmp_path / "sweep" / "ensemble" / "ensemble.json").read_text())["members"]) == 2
    assert leaderboard.collect(tmp_path / "sweep").job.tolist() == ["0", "1"]


def test_ensembles_of_one_group_that_share_a_run_are_named(combined, runs, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    assert call(ensemble.main, monkeypatch, runs[0][0], "--output", other, "--baseline-weight", 0) == 0
    arguments = (f"both={combined}", f"both={other}", runs[0][1], "--output", tmp_path / "comparison")
    assert call(compare.main, monkeypatch, *arguments) == 0
    assert "not independent" in " ".join(capsys.readouterr().out.split())


def test_several_folders_need_a_name_for_the_output(runs, monkeypatch, capsys):
    assert call(ensemble.main, monkeypatch, *runs[0]) == 2
    assert "--output" in capsys.readouterr().err


def test_a_weight_of_a_linear_model_that_the_runs_lack_is_refused(runs, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(runs[0][0], tmp_path / "copy")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump(config | {"baseline": None}))
    assert call(ensemble.main, monkeypatch, copy, "--baseline-weight", 0.3) == 2
    assert "baseline=none" in capsys.readouterr().err
    assert call(ensemble.main, monkeypatch, copy) == 0
    assert "no linear model" in capsys.readouterr().out


FOREIGN = {
    "members": [["."], [], ["../x"], ["/etc"], "0", [1]],
    "factors": [[], ["a"], [float("nan"), 1.0, 1.0], [1.0]],
    "labels": [[], ["a"], None],
    "baseline": ["x", {"_target_": "counterpoise.metrics.thresholds.Decision"}, {"_target_": "os.system"}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in FOREIGN.items() for value in values])
def test_a_foreign_folder_is_refused_in_one_line(combined, tmp_path, key, value):
    copy = shutil.copytree(combined, tmp_path / "copy")
    content = json.loads((copy / "ensemble.json").read_text())
    (copy / "ensemble.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(UserError):
        load(copy)


@pytest.mark.parametrize("change", [{"analyzer": "char"}, {"ngram_range": [1]}, {"terms": ["a"]}, {"terms": None}])
def test_a_linear_model_with_other_features_is_refused(combined, tmp_path, change):
    copy = shutil.copytree(combined, tmp_path / "copy")
    path = copy / "baseline" / "tfidf.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps([settings[0] | change, *settings[1:]]))
    with pytest.raises(UserError, match="baseline is damaged"):
        load(copy)


def test_settings_of_a_foreign_linear_model_that_read_files_have_no_effect(combined, tmp_path):
    copy = shutil.copytree(combined, tmp_path / "copy")
    path = copy / "baseline" / "tfidf.json"
    settings = [each | {"input": "filename", "token_pattern": "(a+)+$"} for each in json.loads(path.read_text())]
    path.write_text(json.dumps(settings))
    texts = ["/etc/os-release", "alpha1 word2"]
    np.testing.assert_array_equal(load(copy)(texts), load(combined)(texts))


@pytest.mark.parametrize("weight", ["1", "-0.1", "nan", "half"])
def test_a_weight_outside_its_range_is_refused(weight, tmp_path, monkeypatch, capsys):
    assert call(ensemble.main, monkeypatch, tmp_path, f"--baseline-weight={weight}") == 2
    assert "--baseline-weight" in capsys.readouterr().err


def test_a_folder_that_is_no_ensemble_is_not_replaced(runs, monkeypatch, capsys):
    assert call(ensemble.main, monkeypatch, runs[0][0], "--output", runs[0][1]) == 2
    assert "not an earlier ensemble" in capsys.readouterr().err
    assert (runs[0][1] / "metrics.json").exists()
