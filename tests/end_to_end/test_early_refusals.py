"""A wrong setting is refused before the work that it does not depend on."""

from pathlib import Path

import pytest

from commandline import run, setting

pytestmark = pytest.mark.e2e

WITHOUT_DATA = {
    "monitor=val/macrof1": "Did you mean 'val/macro_f1'",
    "monitor=macro_f1": "monitor=macro_f1",
    "callbacks.early_stopping.monitor=val/los": "Did you mean 'val/loss'",
    "+callbacks.early_stopping.no_such=1": "no_such",
    "callbacks.early_stopping.patience=x": "callbacks.early_stopping.patience",
    "+logger.csv.no_such=1": "no_such",
    "strategy.sampler.alpha=-1": "alpha",
    "strategy.weights.beta=-1": "beta",
    "strategy.loss._target_=counterpoise.no_such": "counterpoise.no_such",
    "+head.no_such=1": "no_such",
    "+optim.no_such=1": "no_such",
    "ckpt=no/such.ckpt": "ckpt=no/such.ckpt: no such file",
    "costs=no_such.csv": "costs=no_such.csv: no such file",
    "label_texts=no_such.csv": "label_texts=no_such.csv: no such file",
    "decision.file=no_such.json": "decision.file=no_such.json: no such file",
}
WITHOUT_MODEL = {
    "monitor=val/map": "no such metric of this validation split",
    "costs={file}": "costs=",
}
WITHOUT_BASELINE = {
    "trainer.max_epochs=0": "trainer.max_epochs=0",
    "+trainer.limit_val_batches=0": "trainer.limit_val_batches=0",
    "+trainer.no_such=1": "no_such",
    "callbacks.best.monitor=val/map": "val/map",
    "callbacks.best.mode=min": "macro_f1",
}


def refuse(*_: object, **__: object) -> None:
    pytest.fail("this work does not depend on the setting")


@pytest.mark.parametrize(
    ("override", "message", "work"),
    [
        *((*each, "data.datamodule.TextDataModule.prepare_data") for each in WITHOUT_DATA.items()),
        *((*each, "model.encoder.EncoderSource.load") for each in WITHOUT_MODEL.items()),
        *((*each, "training.baseline.fit_baseline") for each in WITHOUT_BASELINE.items()),
    ],
)
def test_a_wrong_setting_is_refused_before_the_work(
    override, message, work, texts, tiny_encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(f"counterpoise.{work}", refuse)
    (tmp_path / "costs.csv").write_text(",no class\nno class,0\n")
    wrong = override.format(file=Path(tmp_path / "costs.csv"))
    done = run(tmp_path / "run", *setting(texts, tiny_encoder), wrong, report=False)
    assert done.code == 2, done.err
    assert message in done.error
