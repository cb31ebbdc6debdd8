"""Score Parquet files with Spark: `python examples/score_with_spark.py EXPORT INPUT OUTPUT`, or `spark-submit`.

EXPORT is a folder that `counterpoise.export` wrote; workers import neither PyTorch nor `transformers`. INPUT is a
Parquet file or a folder of them, OUTPUT the folder of the results: all columns of the input and the predictions. On a
cluster, EXPORT must have the same path on every node. Models of several columns of text are not supported.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import pandas_udf

import counterpoise

ONE_CLASS = "prediction string, probability double, not_predicted string"
SEVERAL_LABELS = "predictions array<string>, probabilities array<double>, not_predicted string"


def predictor(folder: str) -> Callable[..., Any]:
    """Return a pandas UDF that predicts a column of texts with an exported folder."""
    first = counterpoise.load(folder, device="cpu")
    if first.columns > 1:
        raise SystemExit(f"error: {folder} reads {first.columns} columns of text, this recipe one")
    multi_label = first.multi_label

    def predict(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        # A task loads the model once, for all batches of its partition.
        model = counterpoise.load(folder, device="cpu")
        for texts in batches:
            yield model.predict(texts.fillna("").tolist()).table().to_pandas()

    # Spark reads the kind of the UDF from the types of its arguments.
    return pandas_udf(predict, SEVERAL_LABELS if multi_label else ONE_CLASS)


def score(texts: DataFrame, folder: str, column: str) -> DataFrame:
    """Return the rows with the columns of their predictions."""
    scored = texts.select("*", predictor(folder)(texts[column]).alias("scored"))
    return scored.select("*", "scored.*").drop("scored")


def main() -> None:
    """Read the command line and score the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", help="folder of an exported model")
    parser.add_argument("input", help="Parquet file, or folder of Parquet files")
    parser.add_argument("output", help="folder of the results")
    parser.add_argument("--text", default="text", help="column of the text (default: text)")
    arguments = parser.parse_args()

    spark = SparkSession.builder.appName("counterpoise").getOrCreate()
    score(spark.read.parquet(arguments.input), arguments.export, arguments.text).write.parquet(arguments.output)
    spark.stop()


if __name__ == "__main__":
    main()
