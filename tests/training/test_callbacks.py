"""The stop at a non-finite loss, in runs from the command line."""

from pathlib import Path

import pytest

from commandline import load, run, setting

pytestmark = pytest.mark.e2e


@pytest.fixture
def tiny(texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
    return setting(texts, tiny_encoder)


def finite(path: Path) -> bool:
    return all(tensor.isfinite().all() for tensor in load(path)["state_dict"].values())


def test_a_diverging_run_stops_and_names_step_batch_and_settings_to_change(tiny, tmp_path):
    done = run(tmp_path / "run", *tiny, "optim.encoder_lr=1e30", "trainer.gradient_clip_val=null")
    assert done.code == 2
    for part in ("training loss", "step 2", "epoch 0, batch 1", "examples", "optim.encoder_lr"):
        assert part in done.error
    assert "Traceback" not in done.err
    assert done.status["state"] == "failed"
    assert "training loss" in done.status["reason"]


@pytest.mark.parametrize(("batch", "every"), [(8, 1), (11, 4), (8, 50)])
def test_checkpoints_never_contain_non_finite_weights(batch, every, tiny, tmp_path):
    done = run(
        tmp_path / "run",
        *tiny,
        "trainer.max_epochs=3",
        f"+callbacks.finite_loss.every_n_steps={every}",
        "+callbacks.last.every_n_train_steps=1",
        f"+callbacks.diverge={{_target_: diverging.NonFiniteWeights, batch: {batch}}}",
    )
    assert done.code == 2, done.err
    assert f"batch {batch - 6}" in done.error
    assert finite(done.folder / "checkpoints/last.ckpt")
    assert done.last["global_step"] == batch
    assert finite(done.folder / "checkpoints/best.ckpt")


def test_validation_detects_weights_that_the_last_step_made_non_finite(tiny, tmp_path):
    settings = ["optim.encoder_lr=1e30", "trainer.gradient_clip_val=null", "loader.train_limit=14"]
    done = run(tmp_path / "run", *tiny, *settings)
    assert done.code == 2, done.err
    assert "validation loss" in done.error
    assert not list(done.folder.glob("checkpoints/*"))


def test_the_check_can_be_switched_off(tiny, tmp_path):
    settings = ["optim.encoder_lr=1e30", "callbacks.finite_loss=null", "trainer.gradient_clip_val=null"]
    assert run(tmp_path / "run", *tiny, *settings, report=False).code == 0
