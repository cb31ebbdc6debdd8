"""Linear probes (train=probe) from the command line to predictions."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, log_softmax

from commandline import call, load, run, setting
from counterpoise.commands import predict
from counterpoise.model import embeddings as vectors

pytestmark = pytest.mark.e2e


@pytest.fixture
def probe(texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
    return [*setting(texts, tiny_encoder), "train=probe", "optim.head_lr=0.1"]


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of each encoding."""
    counted: list[int] = []
    real = vectors.encode

    def counting(encoder, dataset, *others):
        counted.append(len(dataset))
        return real(encoder, dataset, *others)

    monkeypatch.setattr(vectors, "encode", counting)
    return counted


def logits(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "logits.npz") as stored:
        return dict(stored)


def test_a_probe_is_marked_saves_only_its_head_and_predicts_like_any_run(probe, texts, tmp_path, monkeypatch):
    done = run(tmp_path / "run", *probe, "strategy=weighted")
    assert done.code == 0, done.err
    assert done.metrics["probe"] is True
    assert done.metrics["epochs"] == 20
    assert set(load(done.folder / "checkpoints/best.ckpt")["state_dict"]) == {"head.weight", "head.bias"}
    assert (done.folder / "report.html").is_file()
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, done.folder, texts["test"], "--output", output) == 0
    ours, theirs = pd.read_parquet(output), pd.read_parquet(done.folder / "predictions.parquet")
    assert ours.prediction.tolist() == theirs.prediction.tolist()
    expected = log_softmax(logits(done.folder)["test"].astype(np.float64), axis=1)
    np.testing.assert_allclose(np.log(ours.filter(like="p:")), expected, atol=1e-4)


def test_a_probe_equals_a_training_with_a_frozen_encoder_and_encodes_each_text_once(
    probe, texts, tiny_encoder, tmp_path, encodings
):
    same = ["strategy=combined", "dropout=0", "trainer.max_epochs=3", "optim.head_lr=0.1"]
    # Settings in which train=probe differs from the defaults.
    like_probe = ["loader.batch_size=32", "loader.group_by_length=false", "callbacks.early_stopping=null"]
    frozen = [*setting(texts, tiny_encoder), *same, *like_probe, "encoder.freeze=encoder"]
    fine_tuned = run(tmp_path / "frozen", *frozen, report=False)
    assert fine_tuned.code == 0, fine_tuned.err
    assert not encodings
    settings = [*probe, *same, "loader.batch_size=32", "trainer.check_val_every_n_epoch=1"]
    probed = run(tmp_path / "probe", *settings, report=False)
    assert probed.code == 0, probed.err
    assert sorted(encodings) == [25, 93]  # the test split, and training together with validation
    for split, expected in logits(fine_tuned.folder).items():
        np.testing.assert_allclose(logits(probed.folder)[split], expected, atol=1e-5)
    for name in ("steps", "epochs", "test", "validation"):
        assert probed.metrics[name] == pytest.approx(fine_tuned.metrics[name], abs=1e-5)
    heads = [load(done.folder / "checkpoints/best.ckpt")["state_dict"]["head.weight"] for done in (probed, fine_tuned)]
    np.testing.assert_allclose(*heads, atol=1e-5)

    encodings.clear()
    again = run(tmp_path / "again", *settings, "strategy=plain", "seed=1", report=False)
    assert again.code == 0, again.err
    assert not encodings
    pooled = run(tmp_path / "pooled", *settings, "encoder.pooling=cls", report=False)
    assert pooled.code == 0, pooled.err
    assert sorted(encodings) == [25, 93]


def test_a_multi_label_probe_supports_schedule_second_stage_and_thresholds(tagged, tiny_encoder, tmp_path, monkeypatch):
    settings = [*setting(tagged, tiny_encoder), "data.label=labels", "train=probe", "strategy=deferred_resampling"]
    done = run(tmp_path / "run", *settings, "strategy/second_stage=retrained", report=False)
    assert done.code == 0, done.err
    assert done.metrics["probe"] is True
    assert done.metrics["second_stage"]["epochs"] == 10
    state = load(done.folder / "checkpoints/best.ckpt")["state_dict"]
    assert set(state) == {"head.weight", "head.bias", "scoring.thresholds"}
    output = tmp_path / "out.parquet"
    assert call(predict.main, monkeypatch, done.folder, tagged["test"], "--output", output) == 0
    ours, theirs = pq.read_table(output), pq.read_table(done.folder / "predictions.parquet")
    assert ours["predictions"].to_pylist() == theirs["predictions"].to_pylist()
    decided = expit(logits(done.folder)["test"]) > state["scoring.thresholds"].numpy()
    assert [len(row) for row in ours["predictions"].to_pylist()] == decided.sum(1).tolist()


def test_probes_of_a_sweep_run_in_parallel_write_no_report_and_survive_a_failed_job(probe, tmp_path):
    sweep = tmp_path / "sweep"
    jobs = ["strategy=weighted,manual,crt", "hydra.launcher.n_jobs=2"]
    epochs = ["trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2"]
    done = run(sweep, "-m", *probe, *jobs, *epochs, f"hydra.sweep.dir={sweep}")
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert "every job: data=files " in done.out
    assert re.search(r"strategy=weighted: finished in \d+ s, val/macro_f1 0\.\d{4}", done.out)
    assert "strategy=manual: failed in" in done.out
    table = pd.read_csv(sweep / "leaderboard.csv").sort_values("job")
    assert table.job.tolist() == ["0", "1", "2", "baseline"]
    assert table.state.tolist() == ["finished", "failed", "finished", "finished"]
    assert "by_label" in table.reason[1]
    assert (sweep / "leaderboard.csv").is_file()
    for job in (0, 2):
        assert (sweep / str(job) / "predictions.parquet").is_file()
        assert not list((sweep / str(job)).glob("*.png"))
        assert not (sweep / str(job) / "report.html").exists()
