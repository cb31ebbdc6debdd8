"""Train and test a text classifier on imbalanced classes: `python train.py strategy=weighted`."""

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.token_store import load_tokenizer
from counterpoise.metrics import registry
from counterpoise.model.module import Classifier
from counterpoise.report.run.run_report import write_run_report
from counterpoise.terminal import command_line
from counterpoise.training.artifacts import write_inputs, write_results
from counterpoise.training.baseline import add_baseline, fit_baseline
from counterpoise.training.checks import check_before_data, check_before_training, check_metrics
from counterpoise.training.encoder_record import record_encoder
from counterpoise.training.evaluation import evaluate_best_checkpoint
from counterpoise.training.head_bias import initial_head_bias
from counterpoise.training.hyperparameters import log_hyperparameters
from counterpoise.training.label_texts import start_from_label_texts
from counterpoise.training.overview import show_overview, show_test_results
from counterpoise.training.precision import choose_precision
from counterpoise.training.probe import embed_splits
from counterpoise.training.run import RunContext, record_status
from counterpoise.training.trackers import send_results
from counterpoise.training.trainer import leave_process_group


@hydra.main(version_base="1.3", config_path="conf", config_name="mytask")
@record_status
def main(run: RunContext) -> float | None:
    """Train, test and report one model; return the monitored validation score, for sweepers that optimise it."""
    config = run.config
    run.begin()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    registry.load(config.metrics)

    # Settings: what can be refused without data is refused before any is read
    check_before_data(config)
    strategy, optim, head = instantiate(config.strategy), instantiate(config.optim), instantiate(config.head)
    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger]

    # Data
    source = instantiate(config.encoder)
    data = TextDataModule(
        instantiate(config.data),
        load_tokenizer(source.locate(), source.revision),
        source.tokenisation,
        packed=source.packed,
        seed=config.seed,
        **config.loader,
    )
    data.prepare_data()
    data.setup()

    # Strategy: the sampler and the loss of each epoch, computed from the training counts
    fitted = strategy.fit(data.labels, data.index, config.trainer.max_epochs)
    data.sampler = fitted.sampler
    show_overview(run, data, fitted)
    check_metrics(config, data)
    if run.rank == 0:
        write_inputs(run.folder, fitted.final.correction, data)

    # Model
    encoder = embed_splits(source, data, config) if config.probe else source.load()
    if run.rank == 0:
        record_encoder(run.folder, source, encoder, data.tokenizer, config.ckpt)
    first = fitted.at_epoch(0)
    model = Classifier(
        encoder,
        first.loss,
        optim,
        data.labels,
        data.counts,
        data.batch_size,
        head=head,
        losses=fitted.loss,
        micro_batch_size=config.micro_batch_size,
        dropout=config.dropout,
        decision=instantiate(config.decision) if first.correction.multi_label else None,
        head_bias=initial_head_bias(first.correction, first.loss, config.bias_init),
        bounds=instantiate(config.buckets),
    )

    start_from_label_texts(run, model, data)

    # Trainer
    precision = choose_precision(config, encoder)
    trainer: pl.Trainer = instantiate(config.trainer, precision=precision, callbacks=callbacks, logger=loggers)
    check_before_training(run, trainer, model, data, fitted)

    # Baseline: a linear model on the same splits, in seconds
    baseline = fit_baseline(run, data)

    # Training
    log_hyperparameters(run, trainer, model, data)
    trainer.fit(model, datamodule=data, ckpt_path=config.ckpt, weights_only=True)

    # Evaluation, in one process
    leave_process_group()
    if not trainer.is_global_zero:
        return None
    results = evaluate_best_checkpoint(run, trainer, model, data, fitted)
    if results is None:
        return None
    results = add_baseline(results, baseline, model.scoring)
    write_results(run.folder, results)
    if not run.part_of_probe_sweep:
        write_run_report(run.folder / "report.html", results)
    send_results(trainer.loggers, run.folder, results)
    show_test_results(run, results)
    return results.metrics["validation"][config.monitor.removeprefix("val/")]


if __name__ == "__main__":
    command_line(main, overrides=True)
