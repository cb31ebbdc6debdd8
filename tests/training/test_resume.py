"""A resumed training continues as the uninterrupted one, wherever it stopped and however its steps are divided."""

import csv
import dataclasses
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger

from commandline import load, same_weights
from conftest import write_texts
from counterpoise.balance import InverseFrequency, PowerSampler, Progressive, Strategy
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.sources.files import FileSource
from counterpoise.data.token_store import load_tokenizer
from counterpoise.data.tokenisation import Tokenisation
from counterpoise.errors import UserError
from counterpoise.model.encoder import EncoderSource
from counterpoise.model.module import Classifier
from counterpoise.model.optim import Optim
from counterpoise.training.checks import steps_per_epoch
from counterpoise.training.last_checkpoint import LastCheckpoint
from counterpoise.training.metrics_log import MetricsLog
from counterpoise.training.resume import BestCheckpoint, ExactResume
from counterpoise.training.resume_checks import check_resumable
from counterpoise.training.trainer import build
from refusals import user_error

BATCH = 8
STEPS = 5
"""Optimizer steps of an epoch: 33 rows, of which one is left over."""


class StoppedError(Exception):
    """Stands for a signal or a crash."""


class Recorder(pl.Callback):
    """Records what a training does, by optimizer step, and stops it at the n-th call of a hook."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)
        self.batches: list[tuple[int, int, list[int]]] = []
        self.rates: dict[int, float] = {}
        self.validations: list[int] = []
        self.epoch_ends: list[tuple[int, int]] = []
        if stop:
            self.hook, self.left = stop
            own = getattr(type(self), self.hook)
            setattr(self, self.hook, lambda *hooked, **named: (own(self, *hooked, **named), self.count()))

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise StoppedError

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if "filler" not in batch:
            self.batches.append((trainer.global_step, trainer.current_epoch, batch["rows"].tolist()))
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_start(self, trainer, pl_module): ...
    def on_train_epoch_start(self, trainer, pl_module): ...
    def on_before_backward(self, trainer, pl_module, loss): ...
    def on_before_zero_grad(self, trainer, pl_module, optimizer): ...
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx): ...
    def on_validation_start(self, trainer, pl_module): ...
    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx): ...

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)

    def on_train_epoch_end(self, trainer, pl_module):
        self.epoch_ends.append((trainer.current_epoch, trainer.global_step))

    def steps_after(self, first: int) -> dict[int, tuple[int, list[int]]]:
        """Return epoch and sorted rows of each optimizer step from `first`."""
        merged: dict[int, tuple[int, list[int]]] = {}
        for step, epoch, rows in self.batches:
            if step >= first:
                merged[step] = (epoch, sorted(merged.get(step, (epoch, []))[1] + rows))
        return merged


class Log(DummyLogger):
    """Keeps what is logged as (step, name): value."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[tuple[int, str], float] = {}

    def log_metrics(self, metrics, step=None):
        self.values |= {(step, name): float(value) for name, value in metrics.items()}


@dataclasses.dataclass
class Run:
    """A training that was started, and stopped or finished."""

    folder: Path
    recorder: Recorder
    log: Log
    trainer: pl.Trainer
    model: Classifier
    stopped: bool

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def metrics(self) -> list[list[str]]:
        """Rows of metrics.csv."""
        with (self.folder.parent / "csv/metrics.csv").open() as file:
            return list(csv.reader(file))


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tables")
    return {
        "train": str(write_texts(folder / "train.csv", {"alpha": 20, "beta": 9, "gamma": 4})),
        "validation": str(write_texts(folder / "validation.csv", {"alpha": 5, "beta": 3, "gamma": 2}, seed=1)),
        "test": str(write_texts(folder / "test.csv", {"alpha": 3, "beta": 2, "gamma": 2}, seed=2)),
    }


@pytest.fixture
def train(tables, tiny_encoder, tmp_path):
    """Returns a function that trains, in a folder of its own."""
    number = iter(range(100))

    def trained(
        stop=None,
        ckpt=None,
        strategy=None,
        optim=None,
        patience=None,
        threshold=None,
        files=tables,
        loader=None,
        max_length=32,
        dropout=0.1,
        exact_resume=True,
        each_step=False,
        minutes=15.0,
        **flags,
    ) -> Run:
        flags = {"max_epochs": 3} | flags
        folder = tmp_path / f"run{next(number)}" / "checkpoints"
        pl.seed_everything(0, verbose=False)
        source = EncoderSource(str(tiny_encoder), hidden_dropout=dropout, attention_dropout=dropout, max_length=32)
        options = {"tokenisation": Tokenisation(max_length), "batch_size": BATCH, "eval_batch_size": 4} | (loader or {})
        data = TextDataModule(FileSource(**files), load_tokenizer(source.locate()), **options)
        data.prepare_data()
        data.setup()
        strategy = strategy or Strategy(PowerSampler(0.5), InverseFrequency(0.5))
        fitted = strategy.fit(data.labels, data.index, flags["max_epochs"])
        data.sampler = fitted.sampler
        model = Classifier(
            source.load(),
            fitted.at_epoch(0).loss,
            optim or Optim(encoder_lr=1e-3, head_lr=1e-2),
            data.labels,
            data.counts,
            data.batch_size,
            losses=fitted.loss,
            dropout=dropout,
        )
        recorder, log = Recorder(stop), Log()
        metrics = MetricsLog(str(folder.parent), ckpt=ckpt and str(ckpt))
        last = LastCheckpoint(folder, "last", minutes=minutes, save_on_exception=True, enable_version_counter=False)
        best = BestCheckpoint(folder, "best", monitor="val/macro_f1", mode="max", save_weights_only=True)
        callbacks = [recorder, LearningRateMonitor("step"), best, last]
        if exact_resume:
            callbacks.append(ExactResume())
        if each_step:
            callbacks.append(ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1))
        if patience:
            # This score is constant.
            stop = EarlyStopping("val/classes", patience=patience, mode="max", stopping_threshold=threshold)
            callbacks.append(stop)
        trainer = build(
            "cpu",
            1,
            "32-true",
            **{"num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False} | flags,
            logger=[log, metrics],
            callbacks=callbacks,
            log_every_n_steps=1,
        )
        if ckpt:
            check_resumable(str(ckpt), trainer, model, data, steps_per_epoch(trainer, data))
        stopped = False
        try:
            trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
        except StoppedError:
            stopped = True
        return Run(folder, recorder, log, trainer, model, stopped)

    return trained


def logged(run: Run, stopped: Run, first: int) -> list[list[str]]:
    """Return the rows of metrics.csv, without those that the stopped run has not logged and a resumed one cannot.

    These are the row of a step that a callback ended, and the mean loss of an epoch whose steps were all done.
    """
    header, *rows = run.metrics
    step, loss = header.index("step"), header.index("train/loss_epoch")
    ended = str(first - 1) if getattr(stopped.recorder, "hook", None) == "on_train_batch_end" else None
    return [header, *(row for row in rows if row[step] != ended and not row[loss])]


def assert_continues(whole: Run, stopped: Run, resumed: Run, ckpt: Path | None = None, exact: bool = True) -> None:
    """Assert that a run and the one that resumes it do and log together what an uninterrupted run does."""
    first = load(ckpt or stopped.last)["global_step"]
    assert (
        stopped.recorder.steps_after(0).items()
        >= {step: rows for step, rows in whole.recorder.steps_after(0).items() if step < first}.items()
    )
    assert resumed.recorder.steps_after(0) == whole.recorder.steps_after(first)
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert resumed.trainer.current_epoch == whole.trainer.current_epoch
    done = {step for step in stopped.recorder.validations if step <= first}
    assert len(set(resumed.recorder.validations)) == len(resumed.recorder.validations)
    assert done | set(resumed.recorder.validations) == set(whole.recorder.validations)
    assert {step for step in whole.recorder.validations if step > first} <= set(resumed.recorder.validations)
    later = {key: value for key, value in whole.log.values.items() if key[0] >= first}
    again = {key: value for key, value in resumed.log.values.items() if key[0] >= first}
    assert again.keys() == later.keys()
    if exact:
        assert again == later
        assert logged(resumed, stopped, first) == logged(whole, stopped, first)
        assert same_weights({"state_dict": resumed.model.state_dict()}, {"state_dict": whole.model.state_dict()})
    else:
        assert again == pytest.approx(later, rel=1e-3, abs=1e-3)


STOPS = [
    ("on_train_epoch_start", 2),
    ("on_before_backward", 3),
    ("on_before_zero_grad", 8),
    ("on_train_batch_end", 5),
    ("on_train_batch_end", 7),
    ("on_train_batch_end", 9),
    ("on_train_batch_end", 10),
    ("on_validation_start", 1),
    ("on_validation_batch_end", 2),
    ("on_validation_batch_end", 5),
    ("on_validation_end", 1),
    ("on_validation_end", 2),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_end", 2),
]
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "several validations": {"val_check_interval": 0.4},
    "validations by number": {"val_check_interval": 3},
    "validations across epochs": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "every second epoch": {"check_val_every_n_epoch": 2, "max_epochs": 4},
    "limited epochs": {"limit_train_batches": 4, "accumulate_grad_batches": 2, "val_check_interval": 2},
    "steps": {"max_epochs": 5, "max_steps": 13},
    "steps across epochs": {"max_epochs": -1, "max_steps": 13, "val_check_interval": 0.4},
    "schedule": {"strategy": Strategy(PowerSampler(1.0), schedule=Progressive())},
    "sanity check": {"num_sanity_val_steps": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_continues_where_it_stopped(name, train):
    # Every stop of the default, and a third of those of the other settings, which differ.
    stops = STOPS if name == "default" else STOPS[list(SETTINGS).index(name) % 3 :: 3]
    assert continued(train, stops, SETTINGS[name]) > 1


@pytest.mark.soak
@pytest.mark.parametrize("name", list(SETTINGS)[1:])
def test_a_run_continues_wherever_it_stopped(name, train):
    assert continued(train, STOPS, SETTINGS[name]) > 7


@pytest.mark.parametrize("settings", [{"limit_train_batches": 3}, {"val_check_interval": 2}], ids=str)
def test_a_run_with_workers_continues_wherever_it_stopped(settings, train):
    assert continued(train, STOPS[2::4], settings | {"loader": {"num_workers": 1}}) > 1


def continued(train, stops, settings) -> int:
    """Assert that a run continues after each stop that it reaches, and return their number."""
    whole, compared = train(**settings), 0
    for stop in stops:
        stopped = train(stop, **settings)
        if stopped.stopped and stopped.last.exists():
            assert_continues(whole, stopped, train(ckpt=stopped.last, **settings))
            compared += 1
    return compared


@pytest.mark.parametrize("name", ["accumulated", "several validations"])
def test_a_run_continues_from_the_checkpoint_of_any_step(name, train):
    settings = SETTINGS[name]
    whole = train(each_step=True, **settings)
    for step in range(1, 3 * STEPS, 3):
        (ckpt,) = whole.folder.glob(f"step={step}.ckpt")
        assert_continues(whole, whole, train(ckpt=ckpt, **settings), ckpt)


@pytest.mark.parametrize(("before", "after"), [(4, 1), (2, 4)])
def test_a_run_continues_with_other_micro_batches(before, after, train):
    whole = train(dropout=0.0)
    for stop in (
        ("on_before_backward", 7),
        ("on_before_zero_grad", 14),
        ("on_train_batch_end", 9),
        ("on_validation_start", 1),
        ("on_validation_batch_end", 5),
        ("on_train_epoch_start", 2),
    ):
        stopped = train(stop, dropout=0.0, accumulate_grad_batches=before)
        resumed = train(ckpt=stopped.last, dropout=0.0, accumulate_grad_batches=after)
        assert_continues(whole, stopped, resumed, exact=False)


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        (("on_before_backward", 8), {"val_check_interval": 0.4}),
        (("on_validation_batch_end", 2), {}),
        (("on_validation_end", 1), {"val_check_interval": 0.4}),
        (("on_train_epoch_end", 1), {"max_steps": 13}),
    ],
    ids=str,
)
def test_a_resumed_run_that_stops_again_continues(first, settings, train):
    whole, once = train(**settings), train(first, **settings)
    for again in (("on_before_backward", 1), ("on_validation_batch_end", 1)):
        twice = train(again, ckpt=once.last, **settings)
        first_step = load(once.last)["global_step"]
        twice.recorder.batches += [batch for batch in once.recorder.batches if batch[0] < first_step]
        twice.recorder.validations += once.recorder.validations
        assert_continues(whole, twice, train(ckpt=twice.last, **settings))


def test_a_resumed_run_that_stops_before_it_trains_saves_nothing(train):
    once = train(("on_before_backward", 8))
    assert not train(("on_train_start", 1), ckpt=once.last).last.exists()


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 0.4}, {"val_check_interval": 3}], ids=str)
def test_a_run_that_stopped_early_is_not_trained_further(settings, patience, train):
    first = train(patience=patience, max_epochs=6, **settings)
    assert first.trainer.global_step < 6 * STEPS
    resumed = train(ckpt=first.last, patience=patience, max_epochs=6, **settings)
    assert resumed.recorder.batches == []
    assert resumed.trainer.global_step == first.trainer.global_step


def test_a_run_that_stopped_at_a_threshold_is_not_trained_further(train):
    settings = {"patience": 9, "threshold": 1.0, "val_check_interval": 0.4}
    first = train(**settings)
    assert first.trainer.global_step == 2
    assert train(ckpt=first.last, **settings).recorder.batches == []


def test_a_training_that_ends_between_validations_saves_its_last_step(train):
    first = train(max_epochs=2, max_steps=8, val_check_interval=3)
    assert load(first.last)["global_step"] == 8
    assert train(ckpt=first.last, max_epochs=2, max_steps=8, val_check_interval=3).recorder.batches == []


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}], ids=str)
def test_a_killed_run_continues_from_the_checkpoint_of_the_last_interval(settings, train, monkeypatch):
    whole = train(**settings)
    monkeypatch.setattr("counterpoise.training.last_checkpoint.LARGEST_SHARE", float("inf"))
    killed = train(("on_before_backward", 8), minutes=0, **settings)
    previous = killed.last.with_name("previous.ckpt")
    steps = [load(path)["global_step"] for path in (previous, killed.last)]
    assert steps[0] == steps[1] - 1
    for ckpt in (killed.last, previous):
        assert_continues(whole, killed, train(ckpt=ckpt, **settings), ckpt)


def test_checkpoints_by_time_take_a_small_share_of_it(train, monkeypatch):
    seconds, saved = [0.0], []

    def save(trainer, *_):
        saved.append(trainer.global_step)
        seconds[0] += 60

    def step(*_):
        seconds[0] += 40 * 60

    clock = SimpleNamespace(monotonic=lambda: seconds[0])
    monkeypatch.setattr("counterpoise.training.last_checkpoint.time", clock)
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)
    monkeypatch.setattr(Recorder, "on_train_batch_end", step)
    train(max_epochs=4, check_val_every_n_epoch=4)
    # The first one is due after 15 minutes and takes 1 minute. The next ones are due every 200 minutes.
    assert saved[:4] == [1, 6, 11, 16]


def test_a_run_continues_within_the_epoch_in_which_max_steps_ended_it(train):
    whole, first = train(max_steps=13), train(max_steps=7)
    resumed = train(ckpt=first.last, max_steps=13)
    assert resumed.recorder.steps_after(0) == whole.recorder.steps_after(7)
    assert resumed.recorder.rates == {step: rate for step, rate in whole.recorder.rates.items() if step >= 7}


def test_a_run_continues_within_the_epoch_in_which_it_stopped_early(train):
    settings = {"val_check_interval": 0.4}
    whole, first = train(patience=99, **settings), train(patience=2, **settings)
    step = first.trainer.global_step
    assert step % STEPS
    resumed = train(ckpt=first.last, patience=99, **settings)
    assert resumed.recorder.steps_after(0) == whole.recorder.steps_after(step)
    assert same_weights({"state_dict": resumed.model.state_dict()}, {"state_dict": whole.model.state_dict()})


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("stop", [None, ("on_before_backward", 8), ("on_validation_start", 2)])
def test_with_more_epochs_the_learning_rate_continues_on_the_longer_schedule(stop, schedule, train):
    optim = Optim(encoder_lr=1e-3, head_lr=1e-2, schedule=schedule)
    longer = train(optim=optim, max_epochs=4)
    first = train(stop, optim=optim, max_epochs=2)
    resumed = train(ckpt=first.last, optim=optim, max_epochs=4)
    step = load(first.last)["global_step"]
    assert resumed.recorder.steps_after(0) == longer.recorder.steps_after(step)
    assert resumed.recorder.rates == {at: rate for at, rate in longer.recorder.rates.items() if at >= step}
    assert min(resumed.recorder.rates.values()) > 0


def test_a_resumed_run_has_its_own_settings_of_the_optimizer(train):
    first = train(("on_before_backward", 8))
    optim = Optim(encoder_lr=1e-4, head_lr=2e-3, weight_decay=0.3, betas=(0.8, 0.9), warmup=0.5)
    resumed, whole = train(ckpt=first.last, optim=optim), train(optim=optim)
    assert resumed.recorder.rates == {step: rate for step, rate in whole.recorder.rates.items() if step >= 7}
    names = ("name", "weight_decay", "betas", "initial_lr")
    for ours, theirs in zip(*(run.trainer.optimizers[0].param_groups for run in (resumed, whole)), strict=True):
        assert [ours[name] for name in names] == [theirs[name] for name in names]


@pytest.mark.parametrize(("patience", "epochs"), [(1, 0), (2, 1), (3, 2)])
def test_a_resumed_run_has_its_own_patience(patience, epochs, train):
    first = train(patience=1, max_epochs=9)
    assert first.trainer.current_epoch == 2
    resumed = train(ckpt=first.last, patience=patience, max_epochs=9)
    assert resumed.trainer.current_epoch == 2 + epochs
    assert len(resumed.recorder.epoch_ends) == epochs


def test_a_finished_run_resumes_without_training(train):
    first = train()
    resumed = train(ckpt=first.last)
    assert not resumed.recorder.batches
    assert resumed.trainer.current_epoch == first.trainer.current_epoch == 3
    assert resumed.trainer.checkpoint_callback.best_model_path


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "batch size": ({}, {"loader": {"batch_size": 16}}, ["loader.batch_size=16 (was 8)"]),
    "seed": ({}, {"loader": {"seed": 3}}, ["seed=3 (was 0)"]),
    "grouping": ({}, {"loader": {"group_by_length": False}}, ["loader.group_by_length=False (was True)"]),
    "limit": ({}, {"loader": {"train_limit": 20}}, ["loader.train_limit=20 (was None)"]),
    "no limit": ({"loader": {"train_limit": 20}}, {}, ["loader.train_limit=None (was 20)"]),
    "length": ({}, {"max_length": 16}, ["encoder.max_length=16 (was 32)"]),
    "several": ({}, {"loader": {"batch_size": 4, "seed": 1}}, ["loader.batch_size=4 (was 8)", "seed=1 (was 0)"]),
    "batches": ({}, {"limit_train_batches": 2}, ["trainer.limit_train_batches", "2 optimizer steps", "was 5"]),
    "share of batches": ({}, {"limit_train_batches": 0.7}, ["trainer.limit_train_batches", "3 optimizer", "was 5"]),
    "epoch size": ({}, {"strategy": Strategy(PowerSampler(0.5, 16))}, ["strategy.sampler", "2 optimizer", "was 5"]),
    "sampler": ({}, {"strategy": Strategy(PowerSampler(0.25))}, ["strategy.sampler", "alpha=0.25", "was", "alpha=0.5"]),
    "schedule": (
        {"strategy": Strategy(PowerSampler(1.0), schedule=Progressive())},
        {"strategy": Strategy(PowerSampler(1.0), schedule=Progressive()), "max_epochs": 4},
        ["trainer.max_epochs"],
    ),
    "fewer epochs": ({}, {"max_epochs": 1}, ["trained for 7 steps", "trainer.max_epochs=1"]),
    "fewer steps": ({}, {"max_steps": 6}, ["trained for 7 steps", "trainer.max_steps=6"]),
    "groups": ({}, {"optim": Optim(layer_decay=0.9)}, ["optim.layer_decay"]),
    "callback": ({}, {"exact_resume": False}, ["callbacks.exact_resume"]),
    "callback before": ({"exact_resume": False}, {}, ["callbacks.exact_resume"]),
    "fast": ({}, {"fast_dev_run": True}, ["debug=fast"]),
}


@pytest.mark.parametrize(("before", "after", "says"), REFUSED.values(), ids=REFUSED)
def test_a_change_that_would_skip_or_repeat_examples_is_refused(before, after, says, train):
    first = train(("on_before_backward", 8), **before)
    error = user_error(train, ckpt=first.last, **after)
    assert all(part in error for part in says), error


@pytest.mark.parametrize("change", ["a row less", "another label", "another order", "another length", "other words"])
def test_other_training_examples_are_refused(change, train, tables, tmp_path):
    first = train(("on_before_backward", 8))
    header, *rows = Path(tables["train"]).read_text().splitlines()
    one = next(i for i, row in enumerate(rows) if row.endswith(",alpha"))
    words = rows[one].removesuffix(",alpha")
    changed = {
        "a row less": [*rows[:one], *rows[one + 1 :]],
        "another label": [*rows[:one], rows[one].replace(",alpha", ",beta"), *rows[one + 1 :]],
        "another order": rows[::-1],
        "another length": [*rows[:one], "word1 " + rows[one], *rows[one + 1 :]],
        "other words": [*rows[:one], " ".join(words.split()[::-1]) + ",alpha", *rows[one + 1 :]],
    }[change]
    (tmp_path / "train.csv").write_text("\n".join([header, *changed]))
    with pytest.raises(UserError, match=r"other training examples .* was 33\).*data\."):
        train(ckpt=first.last, files=tables | {"train": str(tmp_path / "train.csv")})


def test_another_pooling_is_refused(train, tmp_path):
    checkpoint = load(train(("on_before_backward", 8)).last)
    torch.save(checkpoint | {"pooling": {"encoder.pooling": "cls"}}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"encoder\.pooling=mean \(was cls\)"):
        train(ckpt=tmp_path / "last.ckpt")


def test_a_checkpoint_of_an_earlier_version_was_trained_on_truncated_texts(train):
    first = train(("on_before_backward", 8))
    checkpoint = load(first.last)
    del checkpoint["TextDataModule"]["tokens"], checkpoint["pooling"]
    for name in ("long_texts", "chunk_overlap", "max_chunks"):
        del checkpoint["TextDataModule"]["settings"][f"encoder.{name}"]
    torch.save(checkpoint, first.last)
    assert_continues(train(), first, train(ckpt=first.last))
    data = first.trainer.datamodule
    data.tokenisation = dataclasses.replace(data.tokenisation, long_texts="head_tail")
    with pytest.raises(UserError, match=r"encoder\.long_texts=head_tail \(was truncate\)"):
        check_resumable(str(first.last), first.trainer, first.model, data, STEPS)


@pytest.mark.parametrize(
    "flags",
    [
        {"limit_train_batches": 6},
        {"limit_train_batches": 0.3},
        {"val_check_interval": 2},
        {"val_check_interval": 0.5},
        {"val_check_interval": 6, "check_val_every_n_epoch": None},
    ],
    ids=str,
)
def test_a_divided_optimizer_step_is_refused_with_the_next_multiple(flags, train, tables):
    run = train(accumulate_grad_batches=4)
    trainer = build("cpu", 1, "32-true", accumulate_grad_batches=4, logger=False, **flags)
    with pytest.raises(UserError, match=rf"trainer\.{next(iter(flags))}=.* multiple such as (4|8|12)$"):
        steps_per_epoch(trainer, run.trainer.datamodule)


@pytest.mark.parametrize(
    "flag", [{"reload_dataloaders_every_n_epochs": 1}, {"val_check_interval": "00:10:00"}], ids=str
)
def test_flags_that_cannot_be_resumed_are_refused(flag):
    with pytest.raises(UserError, match=f"trainer.{next(iter(flag))}"):
        build("cpu", 1, "32-true", **flag)
