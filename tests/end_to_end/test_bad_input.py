"""User errors print one line that names the setting and the remedy, and exit with code 2."""

from pathlib import Path

import pytest
import torch

from commandline import Outcome, run, setting

pytestmark = pytest.mark.e2e

GOOD = "text,label\n" + "alpha1,alpha\n" * 10 + "beta1,beta\n" * 6

FILES = {
    "good.csv": GOOD,
    "empty.csv": "",
    "header.csv": "text,label\n",
    "one_label.csv": "text,label\n" + "alpha1,alpha\n" * 9,
    "unlabelled.csv": "text,label\n" + "alpha1,\n" * 9,
    "null.csv": GOOD + "beta3,\n",
    "unseen.csv": GOOD + "gamma1,gamma\n",
    "broken.csv": GOOD + "one,two,three\n",
    "latin_1.csv": GOOD.replace("text,", "café,"),
    "not_json.jsonl": '{"text": "alpha1", "label": "alpha"}\n{"text":\n',
    "table.xlsx": "no spreadsheet",
    "not_a_checkpoint.ckpt": "no checkpoint",
    "no_encoder/readme.txt": "no encoder",
    "no_tokenizer/config.json": '{"model_type": "bert"}',
}

# Overrides, and what the message must contain. {files} is the folder of FILES, {tiny} the folder of the encoder.
USER_ERRORS: dict[str, tuple[list[str], list[str]]] = {
    "missing file": (["data.train={files}/god.csv"], ["god.csv", "Did you mean 'good.csv'?"]),
    "missing folder": (["data.train=nowhere/good.csv"], ["nowhere/good.csv"]),
    "no file": (["data.train=null"], ["data.train is not set"]),
    "no text column": (["data.text=null"], ["data.text", "the name of a column"]),
    "one text column in a list": (["data.text=[a]"], ["data.text", "['a']", "name one column"]),
    "no label column": (["data.label=null"], ["data.label", "the name of a column"]),
    "delimiter": (["data.delimiter=1"], ["data.delimiter is 1", "one ASCII character"]),
    "column beside one not in UTF-8": (
        ["data.train={files}/latin_1.csv"],
        ["latin_1.csv has no column 'text'", "it has 'café', 'label'"],
    ),
    "misspelt text column": (["data.text=txet"], ["no column 'txet'", "'text', 'label'", "Did you mean 'text'?"]),
    "misspelt label column": (["data.label=labels"], ["no column 'labels'", "Did you mean 'label'?"]),
    "misspelt id column": (["data.id=txt"], ["no column 'txt'", "Did you mean 'text'?"]),
    "text and label are one column": (["data.label=text"], ["data.text and data.label"]),
    "empty file": (["data.train={files}/empty.csv"], ["empty.csv has no rows"]),
    "header alone": (["data.train={files}/header.csv"], ["header.csv has no rows"]),
    "one label": (["data.train={files}/one_label.csv"], ["one_label.csv", "'alpha'", "at least two classes"]),
    "no labels": (["data.train={files}/unlabelled.csv"], ["unlabelled.csv has no usable rows", "without a label"]),
    "a row too wide": (["data.train={files}/broken.csv"], ["broken.csv", "row 17"]),
    "not JSON": (["data.train={files}/not_json.jsonl"], ["not_json.jsonl", "row 2", "not JSON"]),
    "unknown suffix": (["data.train={files}/table.xlsx"], ["table.xlsx", ".parquet"]),
    "null label refused": (
        ["data.train={files}/null.csv", "data.on_bad_row=error"],
        ["null.csv", "row 17", "without a label", "data.on_bad_row=drop"],
    ),
    "unseen class refused": (
        ["data.test={files}/unseen.csv", "data.on_bad_row=error"],
        ["unseen.csv", "'gamma' (1)", "data.on_bad_row=drop"],
    ),
    "on_bad_row": (["data.on_bad_row=ignore"], ["data.on_bad_row", "'drop' or 'error'"]),
    "misspelt key": (["loader.batchsize=4"], ["loader.batchsize", "Did you mean 'loader.batch_size'?"]),
    "unknown loader setting": (["+loader.batchsize=4"], ["loader.batchsize", "Did you mean 'loader.batch_size'?"]),
    "misspelt trainer flag": (["trainer.max_epoch=4"], ["Did you mean 'trainer.max_epochs'?", "+trainer.max_epoch"]),
    "encoder without name": (["encoder.name=???"], ["encoder.name has no value"]),
    "misspelt group": (["strateg=plain"], ["strateg", "Did you mean 'strategy'?"]),
    "misspelt strategy": (["strategy=weigthed"], ["strategy=weigthed", "Did you mean 'weighted'?", "oversampled"]),
    "misspelt metric": (["monitor=val/macrof1"], ["monitor=val/macrof1", "Did you mean 'val/macro_f1'?"]),
    "misread override": (["data.text=a=b"], ["data.text=a=b"]),
    "wrong type of seed": (["seed=abc"], ["seed", "abc"]),
    "wrong type of epochs": (["trainer.max_epochs=abc"], ["max_epochs", "abc"]),
    "wrong type of batch size": (["loader.batch_size=abc"], ["loader.batch_size", "abc"]),
    "batch size 0": (["loader.batch_size=0"], ["loader.batch_size=0"]),
    "evaluation batch size 0": (["loader.eval_batch_size=0"], ["loader.eval_batch_size=0"]),
    "wrong type of switch": (["loader.group_by_length=maybe"], ["loader.group_by_length=maybe", "true or false"]),
    "wrong type of list": (["optim.betas=0.9"], ["optim.betas=0.9", "a list"]),
    "fraction of a batch": (["loader.batch_size=4.5"], ["loader.batch_size=4.5", "a whole number"]),
    "dropout": (["dropout=2"], ["dropout=2"]),
    "seed null": (["seed=null"], ["seed=null", "a whole number"]),
    "max_length of the special tokens": (["encoder.max_length=1"], ["encoder.max_length=1"]),
    "negative workers": (["loader.num_workers=-1"], ["loader.num_workers=-1"]),
    "seed below 0": (["seed=-1"], ["seed=-1", "from 0 to 4294967295"]),
    "split_seed below 0": (["loader.split_seed=-1"], ["loader.split_seed=-1", "at least 0"]),
    "train_limit": (["loader.train_limit=0"], ["loader.train_limit=0"]),
    "train_limit below 0": (["loader.train_limit=-5"], ["loader.train_limit=-5", "at least 1"]),
    "wrong type of train_limit": (["loader.train_limit=abc"], ["loader.train_limit=abc", "a whole number", "or null"]),
    "wrong type of micro_batch_size": (["micro_batch_size=abc"], ["micro_batch_size=abc", "a whole number", "or null"]),
    "wrong type of unfreeze_at_epoch": (
        ["encoder.unfreeze_at_epoch=abc"],
        ["encoder.unfreeze_at_epoch=abc", "a whole number", "or null"],
    ),
    "max_length null": (["encoder.max_length=null"], ["encoder.max_length=null", "a whole number", "such as 128"]),
    "value for a part": (["loader=3"], ["loader=3", "such as loader.batch_size=16"]),
    "negative learning rate": (["optim.encoder_lr=-1"], ["optim.encoder_lr=-1"]),
    "betas": (["optim.betas=[2, 3]"], ["optim.betas"]),
    "mode": (["monitor_mode=up"], ["callbacks.best: ", "got up"]),
    "mode that keeps the worst loss": (["monitor=val/loss", "monitor_mode=max"], ["val/loss", "lower values", "min"]),
    "mode that keeps the worst score": (["monitor_mode=min"], ["val/macro_f1", "higher values", "max"]),
    "misspelt metric of early stopping": (
        ["callbacks.early_stopping.monitor=val/macrof1"],
        ["callbacks.early_stopping.monitor=val/macrof1", "Did you mean 'val/macro_f1'?"],
    ),
    "averaged weights": (
        ["+callbacks.ema._target_=pytorch_lightning.callbacks.EMAWeightAveraging"],
        ["EMAWeightAveraging", "not averaged"],
    ),
    "unknown callback": (["callbacks.best._target_=nowhere.Best"], ["nowhere.Best"]),
    "wrong type of learning rate": (["optim.encoder_lr=fast"], ["optim.encoder_lr", "fast"]),
    "wrong type of alpha": (["strategy.sampler.alpha=much"], ["strategy.sampler.alpha", "much"]),
    "split": (["loader.validation_fraction=1.5"], ["loader.validation_fraction=1.5"]),
    "eval_order": (["loader.eval_order=random"], ["loader.eval_order=random", "length or stratified"]),
    "accumulation": (["trainer.accumulate_grad_batches=3"], ["loader.batch_size=16", "multiple of 3"]),
    "unknown trainer flag": (["+trainer.foo=1"], ["trainer", "foo"]),
    "overfit_batches": (["+trainer.overfit_batches=1"], ["trainer.overfit_batches", "debug=overfit"]),
    "limit_test_batches": (["+trainer.limit_test_batches=2"], ["trainer.limit_test_batches", "whole splits"]),
    "precision": (["trainer.precision=12"], ["trainer", "12"]),
    "devices": (["trainer.devices=-3"], ["trainer", "`devices`"]),
    "more processes than cores": (["trainer.devices=99"], ["trainer.devices=99", "cores. Use at most"]),
    "schedule": (["optim.schedule=linaer"], ["optim.schedule=linaer", "linear, cosine, constant"]),
    "warm-up": (["optim.warmup=-1"], ["optim.warmup=-1"]),
    "pooling": (["encoder.pooling=max"], ["encoder.pooling=max", "pooler, cls, mean"]),
    "freeze": (["encoder.freeze=half"], ["encoder.freeze=half", "none, embeddings, encoder"]),
    "max_length": (["encoder.max_length=65"], ["encoder.max_length=65", "at most 64"]),
    "encoder without config": (["encoder.name={files}/no_encoder"], ["encoder.name", "no config.json"]),
    "encoder without tokenizer": (["encoder.name={files}/no_tokenizer"], ["no_tokenizer", "tokenizer"]),
    "dot for slash, loss": (["strategy.loss=focal"], ["strategy.loss=focal", "write strategy/loss=focal"]),
    "dot for slash, sampler": (["strategy.sampler=repeat_factor"], ["write strategy/sampler=repeat_factor"]),
    "dot for slash, schedule": (["strategy.schedule=deferred"], ["write strategy/schedule=NAME"]),
    "dot for slash, second stage": (
        ["strategy=crt", "strategy.second_stage=tau_normalised"],
        ["write strategy/second_stage=tau_normalised"],
    ),
    "no sampler": (["strategy.sampler=null"], ["strategy.sampler=null", "write strategy/sampler=NAME"]),
    "name of weights": (
        ["strategy.weights=balanced"],
        ["strategy.weights=balanced", "strategy/weights=balanced"],
    ),
    "number for weights": (["strategy.weights=0.5"], ["strategy.weights=0.5", "strategy/weights="]),
    "name of label weights": (
        ["strategy=focal", "strategy.loss.label_weights=balanced"],
        ["strategy.loss.label_weights=balanced", "a mapping", "or null"],
    ),
    "setting of another loss": (
        ["strategy=balanced_softmax", "strategy/loss=focal"],
        ["strategy.loss.tau: focal", "~strategy.loss.tau"],
    ),
    "setting of another sampler": (
        ["strategy=combined", "strategy/sampler=repeat_factor"],
        ["strategy.sampler.alpha: RepeatFactorSampler", "~strategy.sampler.alpha"],
    ),
    "by_label missing": (["strategy=manual"], ["strategy.weights.by_label has no value"]),
    "by_label lacks a class": (
        ["strategy=manual", "strategy.weights.by_label={{alpha: 1}}"],
        ["strategy.weights.by_label", "no weight for 'beta'"],
    ),
    "by_label misspelt": (
        ["strategy=manual", "strategy.weights.by_label={{alpha: 1, bata: 2}}"],
        ["no class 'bata'", "Did you mean 'beta'?"],
    ),
    "by_label negative": (
        ["strategy=manual", "strategy.weights.by_label={{alpha: 1, beta: -2}}"],
        ["'beta' is -2", "at least 0"],
    ),
    "overcorrection": (
        ["strategy=oversampled", "strategy.weights.beta=0.5"],
        ["alpha=1", "beta=0.5", "over-correct", "strategy.allow_overcorrection=true"],
    ),
    "schedule in one epoch": (
        ["strategy=deferred_reweighting", "trainer.max_epochs=1"],
        ["strategy.schedule", "two epochs", "trainer.max_epochs=1", "strategy.schedule=null"],
    ),
    "schedule that starts too late": (
        ["strategy=deferred_resampling", "strategy.schedule.start=9", "trainer.max_epochs=3"],
        ["strategy.schedule.start=9", "trainer.max_epochs=3"],
    ),
    "start of a schedule": (
        ["strategy=deferred_resampling", "strategy.schedule.start=1.5"],
        ["strategy.schedule.start=1.5", "a fraction of the epochs"],
    ),
    "misspelt schedule": (["strategy/schedule=defered"], ["strategy/schedule=defered", "Did you mean 'deferred'?"]),
    "tau of a second stage": (
        ["strategy=post_hoc", "strategy.second_stage.tau=2"],
        ["strategy.second_stage.tau=2", "between 0 and 1"],
    ),
    "epochs of a second stage": (
        ["strategy=crt", "strategy.second_stage.epochs=0"],
        ["strategy.second_stage.epochs=0"],
    ),
    "smoothing": (["strategy.loss.label_smoothing=1"], ["strategy.loss.label_smoothing=1"]),
    "epoch size": (["strategy.sampler.epoch_size=mean"], ["strategy.sampler.epoch_size=mean", "median"]),
    "max_ratio": (["strategy.max_ratio=0.5"], ["strategy.max_ratio=0.5"]),
    "encoder of a number": (["encoder.name=3"], ["encoder.name=3: no such folder"]),
    "costs of a number": (["costs=3"], ["costs=3", "does not exist"]),
    "missing checkpoint": (["ckpt={files}/last.ckpt"], ["last.ckpt", "no such file"]),
    "no checkpoint": (["ckpt={files}/not_a_checkpoint.ckpt"], ["not_a_checkpoint.ckpt", "not a checkpoint"]),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="latin-1" if "latin" in name else "utf-8")
    return tmp_path / "files"


@pytest.fixture
def good(files: Path, tiny_encoder: Path) -> list[str]:
    """Valid overrides, to which a test adds an error."""
    return setting({"train": files / "good.csv", "test": files / "good.csv"}, tiny_encoder)


def assert_one_line(done: Outcome, says: list[str]) -> None:
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    for part in says:
        assert part in done.error
    if (done.folder / "status.json").exists():
        assert done.status["state"] == "failed"
        assert done.error == f"error: {done.status['reason']}"


@pytest.mark.parametrize("case", USER_ERRORS)
def test_a_user_error_is_reported_in_one_line(case, good, files, tiny_encoder, tmp_path):
    overrides, says = USER_ERRORS[case]
    done = run(tmp_path / "run", *good, *(each.format(files=files, tiny=tiny_encoder) for each in overrides))
    assert_one_line(done, says)


@pytest.mark.parametrize("stage", ["tau_normalised", "post_hoc"])
def test_a_second_stage_that_does_not_fit_the_loss_is_refused_before_training(stage, good, tmp_path):
    done = run(tmp_path / "run", *good, f"strategy={stage}", "strategy/loss=ldam")
    assert_one_line(done, ["strategy.second_stage"])
    assert not (done.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "valid",
    [
        [],
        ["data.train={files}/numbered.csv", "data.test={files}/numbered.csv", "data.text=0", "data.label=1"],
        ["strategy=balanced_softmax", "strategy/loss=focal", "~strategy.loss.tau"],
        [
            "strategy=deferred_resampling",
            "strategy.schedule=null",
            "encoder.hidden_dropout=null",
            "callbacks.last=null",
        ],
    ],
    ids=["defaults", "numeric column names", "removed setting", "null for optional settings"],
)
def test_valid_settings_run(valid, good, files, tmp_path):
    (files / "numbered.csv").write_text(GOOD.replace("text,label", "0,1"))
    done = run(tmp_path / "run", *good, *(each.format(files=files) for each in valid), report=False)
    assert done.code == 0, done.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("trainer", ["gpu", "ddp"])
def test_a_missing_gpu_is_reported_in_one_line(trainer, good, tmp_path):
    assert_one_line(run(tmp_path / "run", *good, f"trainer={trainer}"), ["trainer", "gpu"])


def test_a_checkpoint_of_another_label_set_is_reported_in_one_line(good, files, tmp_path):
    first = run(tmp_path / "first", *good, report=False)
    (files / "other.csv").write_text(GOOD.replace("beta", "gamma"))
    overrides = [f"data.train={files}/other.csv", f"ckpt={first.folder}/checkpoints/last.ckpt"]
    done = run(tmp_path / "run", *good, *overrides, f"data.test={files}/other.csv")
    assert_one_line(done, ["other labels", "not in this data: beta", "not in the checkpoint: gamma"])


def test_an_unwritable_cache_is_reported_in_one_line(good, files, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(files / "good.csv" / "cache"))
    assert_one_line(run(tmp_path / "run", *good), ["cache", "COUNTERPOISE_CACHE"])


def test_traceback_true_shows_the_traceback_of_a_user_error(good, tmp_path):
    done = run(tmp_path / "run", *good, "data.text=txet", "traceback=true")
    assert done.code != 0
    assert "Traceback" in done.err
    assert "no column 'txet'" in done.err
    assert done.status["state"] == "failed"


def test_unusable_rows_and_classes_are_dropped_counted_and_reported(good, files, tmp_path):
    (files / "train.csv").write_text(GOOD + "beta3,\n,alpha\n")
    done = run(tmp_path / "run", *good, f"data.train={files}/train.csv", f"data.test={files}/unseen.csv", report=False)
    assert done.code == 0, done.err
    assert done.metrics["data"]["train"]["dropped"] == {"without a label": 1, "without a text": 1}
    assert done.metrics["data"]["test"]["unseen"] == 1
    assert "row 17" in done.err
    assert "'gamma' (1)" in done.err
