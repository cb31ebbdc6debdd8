"""Score Parquet files with Ray Data: `python examples/score_with_ray.py EXPORT INPUT OUTPUT`.

EXPORT is a folder that `counterpoise.export` wrote; workers import neither PyTorch nor `transformers`. INPUT is a
Parquet file or a folder of them, OUTPUT the folder of the results: all columns of the input and the predictions, in the
order of the input. On a cluster, EXPORT must have the same path on every node. Models of several columns of text are
not supported.
"""

import argparse

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, DataContext

import counterpoise


class Score:
    """An actor that loads the model once and scores batches.

    Args:
        folder: Exported folder.
        text: Column of the text.
    """

    def __init__(self, folder: str, text: str) -> None:
        self._model, self._text = counterpoise.load(folder, device="cpu"), text
        if self._model.columns > 1:
            raise ValueError(f"{folder} reads {self._model.columns} columns of text, this recipe one")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the batch with the columns of its predictions."""
        texts = pc.fill_null(batch[self._text].cast(pa.string()), "")
        found = self._model.predict(texts.to_pylist()).table()
        for name, column in zip(found.column_names, found.columns, strict=True):
            if name in batch.column_names:
                raise ValueError(f"the input has a column {name!r} already: rename it")
            batch = batch.append_column(name, column)
        return batch


def main() -> None:
    """Read the command line and score the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="folder of an exported model")
    parser.add_argument("input", help="Parquet file, or folder of Parquet files")
    parser.add_argument("output", help="folder of the results")
    parser.add_argument("--text", default="text", help="column of the text (default: text)")
    parser.add_argument("--actors", type=int, default=1, help="processes that hold a model (default: 1)")
    parser.add_argument("--cores", type=int, default=1, help="cores of each of them (default: 1)")
    parser.add_argument("--batch", type=int, default=1024, help="texts per call (default: 1024)")
    arguments = parser.parse_args()

    DataContext.get_current().execution_options.preserve_order = True
    scored = ray.data.read_parquet(arguments.input).map_batches(
        Score,
        fn_constructor_args=(arguments.export, arguments.text),
        compute=ActorPoolStrategy(size=arguments.actors),
        num_cpus=arguments.cores,
        batch_size=arguments.batch,
        batch_format="pyarrow",
    )
    scored.write_parquet(arguments.output)


if __name__ == "__main__":
    main()
