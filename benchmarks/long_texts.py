"""Write the texts of a data source that have more than a number of tokens, to compare values of `encoder.long_texts`.

`python benchmarks/long_texts.py FOLDER --tokens 128 data=reuters_r52` writes FOLDER/train.parquet and
FOLDER/test.parquet. `docs/results.md` has the runs on them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from counterpoise.data.token_store import load_tokenizer, tokenise
from counterpoise.terminal import command_line

CONF = Path(__file__).resolve().parent.parent / "conf"


def main() -> None:
    """Read the command line and write the files of both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--tokens", type=int, default=128, help="texts of more tokens are kept (default: 128)")
    parser.add_argument("--texts", type=int, help="keep this many of them, evenly spaced in the file (default: all)")
    parser.add_argument("overrides", nargs="*", help="overrides of train.py that choose data and encoder")
    arguments = parser.parse_intermixed_args()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", arguments.overrides)
    encoder, source = instantiate(config.encoder), instantiate(config.data)
    tokenizer = load_tokenizer(encoder.locate(), encoder.revision)
    source.prepare()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, split in source.load().items():
        read = replace(encoder.tokenisation, long_texts="truncate")
        lengths = tokenise(split.texts, tokenizer, read, name, split.digest).full_lengths
        rows = np.flatnonzero(lengths > arguments.tokens)
        if arguments.texts and arguments.texts < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, arguments.texts).astype(int)]
        long = pa.array(rows)
        table = pa.table({"text": split.texts.take(long), "label": split.labels.take(long)})
        pq.write_table(table, arguments.folder / f"{name}.parquet")
        kept = lengths[rows]
        print(
            f"{name}: {len(long):,} of {len(split):,} texts; tokens: median {np.median(kept):.0f}, "
            f"95th percentile {np.percentile(kept, 95):.0f}, longest {kept.max():,}"
        )


if __name__ == "__main__":
    command_line(main)
