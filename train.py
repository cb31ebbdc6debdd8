"""Trains and tests a text classifier on imbalanced classes: `python train.py strategy=weighted`."""

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.token_store import load_tokenizer
from counterpoise.model.module import Classifier
from counterpoise.terminal import command_line
from counterpoise.training import run
from counterpoise.training.checks import check
from counterpoise.training.evaluation import finish


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@run.recorded
def main(config: DictConfig) -> float | None:
    """Returns the best validation score, for sweepers that optimise it."""
    run.begin(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    encoder = instantiate(config.encoder)
    tokenizer = load_tokenizer(encoder.locate(), encoder.revision)
    data = TextDataModule(
        instantiate(config.data),
        tokenizer,
        max_length=encoder.max_length,
        packed=encoder.packed,
        seed=config.seed,
        **config.loader,
    )
    data.prepare_data()
    data.setup()

    fitted = instantiate(config.strategy).fit(data.labels, data.index, config.trainer.max_epochs)
    data.sampler = lambda epoch: fitted.at_epoch(epoch).sampler
    run.show(fitted, data, config)

    first = fitted.at_epoch(0)
    correction, loss = first.correction, first.loss
    model = Classifier(
        run.embed_splits(encoder, data, config) if config.probe else encoder.load(),
        loss,
        instantiate(config.optim),
        data.labels,
        data.counts,
        data.batch_size,
        losses=lambda epoch: fitted.at_epoch(epoch).loss,
        micro_batch_size=config.micro_batch_size,
        dropout=config.dropout,
        decision=instantiate(config.decision) if correction.multi_label else None,
        head_bias=run.head_bias(correction, loss, config.bias_init),
        bounds=instantiate(config.buckets),
    )
    callbacks = [instantiate(callback) for callback in config.callbacks.values() if callback]
    loggers = [instantiate(logger) for logger in config.logger.values() if logger]
    trainer: pl.Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers)
    check(trainer, model, data, fitted, config)

    trainer.fit(model, datamodule=data, ckpt_path=config.ckpt, weights_only=True)
    if not run.continues_alone(trainer):
        return None
    metrics = finish(trainer, model, data, fitted, config)
    return metrics["validation"][config.monitor.removeprefix("val/")] if metrics else None


if __name__ == "__main__":
    command_line(main)
