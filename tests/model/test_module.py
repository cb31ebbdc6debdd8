import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import COUNTS, write_tagged_texts, write_texts
from counterpoise.balance import (
    LDAM,
    Asymmetric,
    CrossEntropy,
    Deferred,
    DistributionBalanced,
    EffectiveNumber,
    InverseFrequency,
    LogitAdjusted,
    PowerSampler,
    Strategy,
    cross_entropy,
    focal,
)
from counterpoise.data.batching import split_batch
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError
from counterpoise.metrics.thresholds import Decision
from counterpoise.model.encoder import EncoderSource
from counterpoise.model.module import Classifier, check_labels
from counterpoise.model.optim import Optim
from counterpoise.training.progress import Progress
from counterpoise.training.trainer import build
from refusals import user_error

SPLITS = ("train", "validation", "test")
BALANCED = Strategy(PowerSampler(), InverseFrequency(1.0))


class Gradients(pl.Callback):
    """Records the gradient of each optimizer step, before it is clipped."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append(torch.cat([p.grad.flatten() for p in pl_module.parameters()]))


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, str]:
    """93 rows: two steps of 32, and one of 29."""
    folder = tmp_path_factory.mktemp("tables")
    test = {label: max(2, count // 4) for label, count in COUNTS.items()}
    return {
        "train": str(write_texts(folder / "train.csv", COUNTS)),
        "validation": str(write_texts(folder / "validation.csv", test, seed=1)),
        "test": str(write_texts(folder / "test.csv", test, seed=2)),
    }


@pytest.fixture
def parts(tables, tiny_encoder, cache):
    """Return a data module and a classifier without dropout, made for each other."""

    def made(strategy: Strategy = BALANCED, optim: Optim | None = None, dropout=0.0, files=tables, epochs=1, **encoder):
        options = {"hidden_dropout": dropout, "attention_dropout": dropout, "max_length": 32} | encoder
        source = EncoderSource(str(tiny_encoder), **options)
        tokenizer = load_tokenizer(source.locate())
        data = TextDataModule(FileSource(**files), tokenizer, Tokenisation(32), batch_size=32, eval_batch_size=5)
        data.prepare_data()
        data.setup()
        fitted = strategy.fit(data.labels, data.index, epochs)
        correction, data.sampler = fitted.at_epoch(0).correction, lambda epoch: fitted.at_epoch(epoch).sampler
        torch.manual_seed(0)
        model = Classifier(
            source.load(),
            fitted.at_epoch(0).loss,
            optim or Optim(),
            data.labels,
            data.counts,
            data.batch_size,
            losses=lambda epoch: fitted.at_epoch(epoch).loss,
            dropout=dropout,
            decision=Decision() if correction.multi_label else None,
            head_bias=correction.prior_logits if correction.multi_label else None,
        )
        return data, model

    return made


def trainer(folder: Path, **flags) -> pl.Trainer:
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return build(**(options | flags))


def fitted(parts, folder: Path, **flags) -> tuple[list[Tensor], Classifier]:
    """Return the gradients of each step of an epoch, and the classifier after it."""
    data, model = parts()
    gradients = Gradients()
    trainer(folder, callbacks=[gradients], **flags).fit(model, datamodule=data)
    return gradients.steps, model


def logits_and_targets(data: TextDataModule, model: Classifier, split: str) -> tuple[Tensor, Tensor]:
    examples = data.splits[split]
    batch = examples.dataset[np.arange(len(examples))]
    with torch.no_grad():
        return model.eval()(batch), batch["targets"]


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_the_gradient_of_a_step_does_not_depend_on_micro_batches(parts, tmp_path, accumulate):
    whole, model = fitted(parts, tmp_path, precision="64-true")
    split_batch, same = fitted(parts, tmp_path, precision="64-true", accumulate_grad_batches=accumulate)
    assert len(whole) == len(split_batch) == 3  # the last of 29 rows
    for one, many in zip(whole, split_batch, strict=True):
        assert one.norm() > 1e-3
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)
    for one, many in zip(model.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_smaller_last_step_has_the_same_gradient_for_any_micro_batches(parts, tables, tmp_path, left):
    files = tables | {"train": str(write_texts(tmp_path / "train.csv", {"alpha": 32, "beta": left}))}
    steps, losses = [], []
    for accumulate in (1, 4):
        data, model = parts(files=files)
        gradients = Gradients()
        fit = trainer(tmp_path, callbacks=[gradients], precision="64-true", accumulate_grad_batches=accumulate)
        fit.fit(model, datamodule=data)
        steps.append(gradients.steps)
        losses.append([fit.callback_metrics[f"train/loss_{name}"].item() for name in ("epoch", "step")])
    assert len(steps[0]) == len(steps[1]) == 2
    for one, many in zip(*steps, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


OF_ONE_CLASS = {
    "cross-entropy": cross_entropy,
    "smoothed": partial(CrossEntropy, label_smoothing=0.1),
    "focal": focal,
    "class-balanced focal": partial(focal, label_weights=EffectiveNumber(0.9)),
    "logit-adjusted": partial(LogitAdjusted, tau=0.5),
    "ldam": LDAM,
}
OF_MANY_LABELS = {
    "cross-entropy": cross_entropy,
    "focal": focal,
    "asymmetric": Asymmetric,
    "distribution-balanced": DistributionBalanced,
}


@pytest.mark.parametrize("loss", OF_ONE_CLASS.values(), ids=OF_ONE_CLASS)
def test_the_gradient_of_a_step_does_not_depend_on_the_number_of_passes(parts, tables, tmp_path, loss):
    assert_passes_do_not_matter(parts, tables, tmp_path, Strategy(PowerSampler(), InverseFrequency(0.25), loss=loss))


@pytest.mark.parametrize("loss", OF_MANY_LABELS.values(), ids=OF_MANY_LABELS)
def test_the_multi_label_gradient_does_not_depend_on_the_number_of_passes(parts, tagged_tables, tmp_path, loss):
    assert_passes_do_not_matter(
        parts, tagged_tables, tmp_path, Strategy(PowerSampler(), InverseFrequency(0.25), loss=loss)
    )


def assert_passes_do_not_matter(parts, files, tmp_path, strategy) -> None:
    """Steps of 32 texts at once, in 4 passes of 8, and in 2 accumulated micro-batches of 4 passes."""
    steps, losses = [], []
    for size, accumulate in ((None, 1), (8, 1), (4, 2)):
        data, model = parts(strategy, files=files, dropout=0.0)
        model.micro_batch_size = size
        gradients = Gradients()
        flags = {"precision": "64-true", "accumulate_grad_batches": accumulate}
        fit = trainer(tmp_path, callbacks=[gradients], **flags)
        fit.fit(model, datamodule=data)
        steps.append(gradients.steps)
        losses.append(fit.callback_metrics["train/loss_epoch"].item())
    assert len(steps[0]) == 3
    for whole, *others in zip(*steps, strict=True):
        assert whole.norm() > 1e-4
        for each in others:
            torch.testing.assert_close(each, whole, rtol=1e-9, atol=1e-12)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6)


def test_a_packed_batch_is_divided_between_texts():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    batch = {"input_ids": torch.arange(6), "attention_mask": mask, "targets": torch.tensor([0, 1, 2])}
    first, second = split_batch(batch, 2)
    assert first["input_ids"].tolist() == [0, 1, 2, 3]
    assert second["input_ids"].tolist() == [4, 5]
    assert second["attention_mask"].tolist() == [[1, 1, 0]]
    assert first["targets"].tolist() == [0, 1]


class Crowded(torch.nn.Module):
    """An encoder with room for so many tokens, beyond which it runs out of memory: forwards or backwards."""

    inputs = ("input_ids", "attention_mask")
    unfreeze_at_epoch = None

    def __init__(self, encoder, tokens: int, backward: bool = False) -> None:
        super().__init__()
        self.encoder, self.tokens, self.backward = encoder, tokens, backward
        self.size, self.layers, self.embeddings = encoder.size, encoder.layers, encoder.embeddings
        self.passes: list[int] = []

    def forward(self, input_ids, attention_mask):
        vectors = self.encoder(input_ids, attention_mask)
        if input_ids.numel() > self.tokens:
            if not self.backward:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            vectors.register_hook(self.fail)
        self.passes.append(len(input_ids))
        return vectors

    def fail(self, gradient):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: 9 bytes")


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_that_runs_out_of_memory_is_repeated_in_more_passes(parts, tmp_path, caplog, backward):
    expected, plain = fitted(parts, tmp_path, precision="64-true")
    data, model = parts()
    longest = max(batch["input_ids"].numel() for batch in data.train_dataloader())
    model.encoder = Crowded(model.encoder, longest // 3, backward)
    gradients = Gradients()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, callbacks=[gradients], precision="64-true").fit(model, datamodule=data)
    for one, other in zip(expected, gradients.steps, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-9)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert "into 2 passes" in warnings[0]
    assert "into 4 passes" in warnings[1]


def test_an_evaluation_batch_that_does_not_fit_into_memory_is_divided(parts, tmp_path):
    data, model = parts()
    fit = trainer(tmp_path)
    (expected,) = fit.test(model, datamodule=data, verbose=False)
    longest = max(batch["input_ids"].numel() for batch in data.test_dataloader())
    model.encoder = Crowded(model.encoder, longest // 3)
    (split_batch,) = fit.test(model, datamodule=data, verbose=False)
    assert split_batch == pytest.approx(expected, rel=1e-5)
    assert min(model.encoder.passes) < 3


def test_a_single_text_that_runs_out_of_memory_ends_the_run_in_one_line(parts, tmp_path):
    data, model = parts()
    model.encoder = Crowded(model.encoder, 0)
    with pytest.raises(UserError, match=r"out of memory with 1 texts of .*encoder\.max_length"):
        trainer(tmp_path).fit(model, datamodule=data)


def test_the_gradient_is_of_the_weighted_loss_divided_by_the_batch_size(parts, tmp_path):
    data, model = parts()
    gradients = Gradients()
    sequence = list(data.train_dataloader())
    logits = model(sequence[0])
    weights = torch.from_numpy(BALANCED.correction(data.labels, data.index).class_weights).float()
    classes = sequence[0]["targets"]
    loss = (weights[classes] * F.cross_entropy(logits, classes, reduction="none")).sum() / 32
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    trainer(tmp_path, callbacks=[gradients], max_steps=1).fit(model, datamodule=data)
    torch.testing.assert_close(gradients.steps[0], expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_norm_is_logged_before_clipping(parts, tmp_path):
    data, model = parts()
    gradients = Gradients()
    fit = trainer(tmp_path, callbacks=[gradients], max_steps=1, gradient_clip_val=0.01)
    fit.fit(model, datamodule=data)
    assert fit.callback_metrics["train/grad_norm"].item() == pytest.approx(gradients.steps[0].norm().item(), rel=1e-4)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("limit", [0, 0.0, None])
def test_a_clipping_value_of_0_means_no_clipping(parts, tmp_path, limit):
    data, model = parts()
    gradients = Gradients()
    trainer(tmp_path, callbacks=[gradients], max_steps=1, gradient_clip_val=limit).fit(model, datamodule=data)
    assert torch.equal(torch.cat([p.grad.flatten() for p in model.parameters()]), gradients.steps[0])
    assert gradients.steps[0].norm() > 1e-3


def test_gradients_are_clipped_by_value_in_mixed_precision_too(parts, tmp_path):
    data, model = parts()
    flags = {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value", "precision": "bf16-mixed"}
    trainer(tmp_path, max_steps=1, **flags).fit(model, datamodule=data)
    assert torch.cat([p.grad.flatten() for p in model.parameters()]).abs().max().item() == pytest.approx(0.001)


def test_only_logged_steps_wait_for_the_device(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # a terminal has a bar
    data, model = parts(Strategy(PowerSampler(1.0, epoch_size=416)))
    fit = trainer(tmp_path, callbacks=[Progress()], enable_progress_bar=True, log_every_n_steps=5)
    item, looks = Tensor.item, []
    monkeypatch.setattr(Tensor, "item", lambda self: looks.append(fit.global_step) or item(self))
    fit.fit(model, datamodule=data)
    assert fit.global_step == 13
    assert set(looks) <= {0, 5, 10, 13}  # and before and after the training
    assert 5 in looks  # for the loss beside the bar


def test_logits_are_not_rounded_in_mixed_precision(parts):
    data, model = parts()
    batch = data.splits["train"].dataset[np.arange(60)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model.eval()(batch)
    assert logits.dtype == torch.float32
    assert (logits.bfloat16().float() != logits).float().mean() > 0.9


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_a_precision_that_rounds_weights_and_metrics_is_refused(tmp_path, precision):
    with pytest.raises(UserError, match=f"trainer.precision={precision} .* use {precision[:-5]}-mixed"):
        trainer(tmp_path, precision=precision)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_logged_loss_of_a_smaller_step_is_the_mean_over_its_examples(parts, tmp_path, accumulate):
    data, model = parts(optim=Optim(encoder_lr=0.0, head_lr=0.0))
    fit = trainer(tmp_path, accumulate_grad_batches=accumulate)
    fit.fit(model, datamodule=data)
    with torch.no_grad():
        losses = [model.loss.elements(model.eval()(batch), batch["targets"]) for batch in data.train_dataloader()]
    assert min(map(len, losses)) < 32 / accumulate
    assert fit.callback_metrics["train/loss_epoch"].item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    last = fit.callback_metrics["train/loss_step"].item()
    assert last == pytest.approx(torch.cat(losses[-accumulate:]).mean().item(), rel=1e-5)


def test_training_learns_the_classes(parts, tmp_path):
    data, model = parts(optim=Optim(encoder_lr=3e-3, head_lr=1e-2))
    trainer(tmp_path, max_epochs=12).fit(model, datamodule=data)
    logits, classes = logits_and_targets(data, model, "train")
    assert (logits.argmax(1) == classes).float().mean() > 0.9


def test_weighted_and_unweighted_validation_loss_are_logged(parts, tmp_path):
    data, model = parts()
    (metrics,) = trainer(tmp_path, limit_val_batches=None).validate(model, datamodule=data, verbose=False)
    logits, classes = logits_and_targets(data, model, "validation")
    weights = model.loss.class_weights[classes]
    losses = F.cross_entropy(logits, classes, reduction="none")
    assert metrics["val/loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert metrics["val/loss_weighted"] == pytest.approx((weights * losses).mean().item(), rel=1e-5)
    assert metrics["val/loss"] != pytest.approx(metrics["val/loss_weighted"], rel=1e-2)


def test_each_validation_starts_with_empty_metrics(parts, tmp_path):
    data, model = parts(optim=Optim(encoder_lr=0.0, head_lr=0.0))
    fit = trainer(tmp_path, limit_val_batches=None, max_epochs=2)
    fit.fit(model, datamodule=data)
    logits, classes = logits_and_targets(data, model, "validation")
    assert fit.callback_metrics["val/loss"].item() == pytest.approx(F.cross_entropy(logits, classes).item(), rel=1e-5)
    assert int(model.scoring.class_counts.compute()[1].sum()) in (0, len(classes))


def test_test_outputs_are_the_logits_of_all_rows(parts, tmp_path):
    data, model = parts()
    trainer(tmp_path).test(model, datamodule=data, verbose=False)
    rows = torch.cat([rows for rows, _ in model.test_outputs])
    logits = torch.cat([logits for _, logits in model.test_outputs])
    assert sorted(rows.tolist()) == list(range(len(data.splits["test"])))
    expected, _ = logits_and_targets(data, model, "test")
    torch.testing.assert_close(logits[rows.argsort()], expected, rtol=1e-4, atol=1e-5)


def test_predictions_name_their_rows(parts, tmp_path):
    data, model = parts()
    outputs = trainer(tmp_path).predict(model, data.evaluation_dataloader("test"))
    rows = torch.cat([rows for rows, _ in outputs])
    expected, _ = logits_and_targets(data, model, "test")
    torch.testing.assert_close(torch.cat([logits for _, logits in outputs]), expected[rows], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_stores_labels_but_no_class_weights_or_metrics(parts, tmp_path):
    data, model = parts()
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(model, datamodule=data)
    fit.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["labels"] == ["alpha", "beta", "delta", "gamma"]
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"encoder", "head"}


def test_a_checkpoint_of_other_labels_is_refused_in_one_line(parts, tmp_path):
    data, model = parts()
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(model, datamodule=data)
    fit.save_checkpoint(tmp_path / "last.ckpt")
    _, other = parts()
    other.labels = ["alpha", "beta", "delta", "omega"]
    error = user_error(
        trainer(tmp_path).test, other, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert "gamma" in error
    assert "omega" in error
    trainer(tmp_path).test(
        parts()[1], datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False
    )


def test_a_checkpoint_without_labels_is_refused():
    with pytest.raises(UserError, match="not written by this project"):
        check_labels({}, ["a", "b"])


def test_a_checkpoint_with_labels_in_another_order_is_refused():
    with pytest.raises(UserError, match="order") as error:
        check_labels({"labels": ["b", "a"]}, ["a", "b"])
    assert "\n" not in str(error.value)


def test_a_frozen_encoder_does_not_change_and_has_no_dropout(parts, tmp_path):
    data, model = parts(freeze="encoder", dropout=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = []

    class Modes(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            modes.append((pl_module.encoder.backbone.training, pl_module.dropout.training))

    trainer(tmp_path, max_epochs=2, limit_val_batches=None, callbacks=[Modes()]).fit(model, datamodule=data)
    assert set(modes) == {(False, True)}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder.")


def test_an_encoder_is_unfrozen_at_the_configured_epoch(parts, tmp_path):
    data, model = parts(freeze="encoder", unfreeze_at_epoch=1, dropout=0.1)
    seen = []

    class Seen(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(next(iter(pl_module.encoder.layers[0].parameters())).detach().clone())

    before = next(iter(model.encoder.layers[0].parameters())).detach().clone()
    trainer(tmp_path, max_epochs=2, limit_val_batches=None, callbacks=[Seen()]).fit(model, datamodule=data)
    assert torch.equal(seen[0], before)
    assert not torch.equal(seen[1], before)
    assert not model.encoder.has_frozen_parameters
    assert model.encoder.backbone.training


@pytest.fixture(scope="module")
def tagged_tables(tmp_path_factory) -> dict[str, str]:
    """93 rows with any number of labels each."""
    folder = tmp_path_factory.mktemp("tagged")
    files = {name: write_tagged_texts(folder / f"{name}.jsonl", 93, seed) for seed, name in enumerate(SPLITS)}
    return {name: str(path) for name, path in files.items()} | {"label": "labels"}


@pytest.mark.parametrize("accumulate", [2, 8])
def test_the_multi_label_gradient_does_not_depend_on_micro_batches(parts, tagged_tables, tmp_path, accumulate):
    steps = []
    for number in (1, accumulate):
        data, model = parts(files=tagged_tables)
        gradients = Gradients()
        flags = {"precision": "64-true", "accumulate_grad_batches": number}
        trainer(tmp_path, callbacks=[gradients], **flags).fit(model, datamodule=data)
        steps.append(gradients.steps)
    for one, many in zip(*steps, strict=True):
        assert one.norm() > 1e-4
        torch.testing.assert_close(many, one, rtol=1e-9, atol=1e-12)


def test_the_multi_label_loss_starts_at_the_entropy_of_the_priors(parts, tagged_tables, tmp_path):
    data, model = parts(Strategy(PowerSampler(), InverseFrequency(0.0)), files=tagged_tables)
    torch.nn.init.zeros_(model.head.weight)
    fit = trainer(tmp_path, limit_val_batches=1.0)
    (metrics,) = fit.validate(model, datamodule=data, verbose=False)
    p = torch.tensor(data.counts / len(data.splits["train"]))
    positives = torch.from_numpy(data.splits["validation"].targets.toarray()).double().mean(0)
    expected = -(positives * p.log() + (1 - positives) * (1 - p).log()).mean()
    assert metrics["val/loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_thresholds_are_tuned_in_validation_saved_and_used_in_the_test(parts, tagged_tables, tmp_path):
    data, model = parts(files=tagged_tables)
    fit = trainer(tmp_path, limit_val_batches=1.0)
    fit.fit(model, datamodule=data)
    thresholds = model.scoring.thresholds.clone()
    assert thresholds.unique().numel() > 1
    assert torch.equal(model.state_dict()["scoring.thresholds"], thresholds)
    (metrics,) = fit.test(model, datamodule=data, verbose=False)
    assert torch.equal(model.scoring.thresholds, thresholds)
    logits, targets = logits_and_targets(data, model, "test")
    decided, targets = logits.sigmoid() > thresholds, targets > 0.5
    recall = (decided & targets).sum() / targets.sum()
    assert metrics["test/micro_recall"] == pytest.approx(recall.item())


def test_instance_weights_multiply_the_losses(parts, tagged_tables, tmp_path):
    data, model = parts(files=tagged_tables)
    train = data.splits["train"].dataset
    train.weights = np.zeros(len(train))
    gradients = Gradients()
    trainer(tmp_path, callbacks=[gradients], max_steps=1).fit(model, datamodule=data)
    assert not gradients.steps[0].any()


def test_a_margin_loss_gets_a_cosine_head(parts, tmp_path):
    data, model = parts(Strategy(PowerSampler(), InverseFrequency(0.0), LDAM), Optim(encoder_lr=3e-3, head_lr=1e-2))
    logits, _ = logits_and_targets(data, model, "test")
    assert logits.abs().max() <= 30
    model.head.weight.data *= 100
    again, _ = logits_and_targets(data, model, "test")
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-3)
    trainer(tmp_path, max_epochs=12).fit(model, datamodule=data)
    logits, classes = logits_and_targets(data, model, "train")
    assert (logits.argmax(1) == classes).float().mean() > 0.9


class Losses(pl.Callback):
    """Notes the class weights of the loss and the classes of the examples of each step."""

    def __init__(self) -> None:
        self.weights: list[list[float]] = []
        self.classes: list[list[int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights.append(pl_module.loss.class_weights.tolist())
        self.classes.append(np.bincount(batch["targets"], minlength=4).tolist())


def test_each_epoch_uses_the_loss_and_sampler_of_its_correction(parts, tmp_path):
    scheduled = Strategy(PowerSampler(0.5), InverseFrequency(0.5), schedule=Deferred(2))
    data, model = parts(scheduled, epochs=3)
    seen = Losses()
    trainer(tmp_path, max_epochs=3, callbacks=[seen]).fit(model, datamodule=data)
    final = scheduled.correction(data.labels, data.index)
    assert seen.weights[:6] == [[1.0] * 4] * 6  # three steps an epoch
    np.testing.assert_allclose(seen.weights[6:], [final.class_weights] * 3, rtol=1e-6)
    drawn = np.array(seen.classes).reshape(3, 3, 4).sum(1)
    assert (abs(drawn[:2] - data.counts) <= 1).all()
    assert (abs(drawn[2] - final.expected_class_counts) <= 1).all()


def test_the_weighted_validation_loss_uses_the_loss_of_the_epoch(parts, tmp_path):
    scheduled = Strategy(weights=InverseFrequency(1.0), schedule=Deferred(1))
    data, model = parts(scheduled, Optim(encoder_lr=0.0, head_lr=0.0), epochs=2)
    logged = []

    class Logged(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})

    trainer(tmp_path, max_epochs=2, limit_val_batches=None, callbacks=[Logged()]).fit(model, datamodule=data)
    first, second = logged
    assert first["val/loss"] == pytest.approx(second["val/loss"], rel=1e-6)
    assert first["val/loss_weighted"] == pytest.approx(first["val/loss"], rel=1e-6)
    assert second["val/loss_weighted"] != pytest.approx(second["val/loss"], rel=1e-2)
