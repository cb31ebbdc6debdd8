from pathlib import Path

import commandline
import pytest
import torch
from commandline import load, run, same_weights, setting
from pytorch_lightning.callbacks import Callback

pytestmark = pytest.mark.e2e


@pytest.fixture
def tiny(texts: dict[str, Path], tiny_encoder: Path) -> list[str]:
    return setting(texts, tiny_encoder)


class StopAt(Callback):
    def __init__(self, hook, count):
        self.hook, self.left = hook, count
        setattr(self, hook, self.count)

    def count(self, *a, **k):
        self.left -= 1
        if self.left == 0:
            raise SystemExit(3)

import os
XTRA=os.environ.get("XTRA","").split()
LONG = ["strategy=combined", "trainer.max_epochs=3", "callbacks.early_stopping.patience=9", *XTRA]

@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume(tiny, tmp_path, accumulate, workers):
    settings = [*tiny, *LONG, f"trainer.accumulate_grad_batches={accumulate}", f"loader.num_workers={workers}", "loader.eval_batch_size=4"]
    whole = run(tmp_path / "whole", *settings)
    assert whole.code == 0, whole.err
    print(whole.folder.joinpath("csv/metrics.csv").read_text())
    for hook, counts in { "on_train_batch_end": [1, 5, 6,  7, 8], "on_before_backward": [1, 6, 7], "on_train_epoch_end": [1,2], "on_train_epoch_start": [1,2,3], "on_validation_start": [1,2], "on_validation_batch_end":[1,2,3,4,8,9]}.items():
      for c in counts:
        d = tmp_path / f"s{hook}{c}"
        r = run(d, *settings, f"+callbacks.stop={{_target_: test_train.StopAt, hook: {hook}, count: {c}}}")
        assert r.code == 3, r.err
        try:
            f = r.folder / "checkpoints/last.ckpt"
            print(hook, c, load(f)["global_step"], end=" ")
            r = run(tmp_path / f"r{hook}{c}", *settings, f"ckpt={f}")
            print(r.code, r.err)
            es = [next(v for k, v in x["callbacks"].items() if "Early" in k) for x in (r.last, whole.last)]
            print(es[0]==es[1], es[0])
            print((r.folder / "checkpoints/last.ckpt").exists() and same_weights(r.last, whole.last), r.metrics["test"] == whole.metrics["test"], r.metrics["best_checkpoint"].split("/")[-3],whole.metrics["best_checkpoint"].split("/")[-3])
        except Exception as e:
            print(repr(e))
    assert 0
