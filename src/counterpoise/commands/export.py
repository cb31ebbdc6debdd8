"""Export a finished run: `python -m counterpoise.export RUN [--int8]`, or `--format hf`.

By default the run becomes an ONNX model. Its folder needs only `onnxruntime` and `tokenizers`, and
`counterpoise.predict` accepts it in place of a run:

    model.onnx        logits, float32 [B, C], of input_ids and attention_mask, int64 [B, T], for any B and T; of a run
                      with encoder.long_texts=chunk int64 [B, chunks, T]
    tokenizer.json    truncates texts to the run's length, unless encoder.long_texts is set, and pads batches
    export.json       labels: the C names; decision: arguments of `Decision`, null for single-label runs; reading:
                      format of the training file; tokenisation: what is read of long texts; tokenizer_sha256: digest
                      of tokenizer.json; versions, differences and scores
    thresholds.json   multi-label runs: probability threshold of each label
    calibration.json  if the run has one: probabilities are those of (logits - shift) / temperature

The exported model is compared with the run on test texts of all lengths and is not written if the logits differ. With
`--int8` weights have 8 bits, and activations are rounded to 8 bits by their range in the batch, so the logits of a text
depend slightly on the other texts of its batch. The change of the test scores is measured on the whole test split.

`--format hf` writes a folder with a model card for `transformers` or `sentence-transformers`: see
`commands/hugging_face_export.py`.
"""

import logging
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from counterpoise.commands.arguments import Parser
from counterpoise.commands.run_config import read_config
from counterpoise.commands.trusted_classes import allowed_packages
from counterpoise.errors import UserError
from counterpoise.terminal import LogConsole, console, status


def main() -> None:
    """Read the command line, export, and print the checks and the test scores."""
    parser = Parser(
        prog="counterpoise.export",
        description="Export a finished run to ONNX or a Hugging Face folder, and compare it with the run.",
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--output", type=Path, help="folder to write (default: onnx, onnx-int8 or hf in the run)")
    parser.add_argument(
        "--format",
        choices=("onnx", "hf"),
        default="onnx",
        help="onnx (default), or hf: for transformers or sentence-transformers, with a model card",
    )
    parser.add_argument(
        "--int8", action="store_true", help="quantise weights to 8 bits: a quarter of the size, faster on CPUs"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="PACKAGE", help="package whose classes the run may use"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[LogConsole()])
    if arguments.int8 and arguments.format != "onnx":
        raise UserError(f"--int8 applies to --format onnx, not {arguments.format}")
    read_config(arguments.run)
    output = arguments.output or arguments.run / (arguments.format + "-int8" * arguments.int8)
    packages = allowed_packages(arguments.allow)
    # The exporters take seconds to import, because they import PyTorch: report faults of the arguments first.
    if arguments.format == "hf":
        from counterpoise.commands.hugging_face_export import export_hugging_face

        with status("exporting"):
            exported = export_hugging_face(arguments.run, output, packages)
        console.print(f"for {exported.layout}, {len(exported.labels)} labels")
        console.print(f"largest logit difference to the run: {exported.largest_difference:.2g}")
    else:
        from counterpoise.commands.onnx_export import export

        with status("exporting"):
            content = export(arguments.run, output, arguments.int8, packages)
        _show(content, sum(file.stat().st_size for file in output.rglob("model.onnx*")))
    console.print(output, soft_wrap=True, highlight=False, markup=False)


def _show(content: dict[str, Any], size: int) -> None:
    differences = ", ".join(f"{name} {value:.2g}" for name, value in content["largest_difference"].items())
    console.print(f"largest logit difference to the run: {differences}")
    console.print(f"{size / 1e6:,.1f} MB in {content['precision']}, {len(content['labels'])} labels")
    scores = content["test"]
    if not scores:
        return
    table = Table("", *scores, box=SIMPLE_HEAD, title=f"test split, {scores['fp32']['texts']:,} texts")
    if "int8" in scores:
        table.add_column("change with int8")
    for name, value in scores["fp32"].items():
        if name != "texts":
            change = [f"{scores['int8'][name] - value:+.4f}"] if "int8" in scores else []
            table.add_row(name.replace("_", " "), *(f"{each[name]:.4f}" for each in scores.values()), *change)
    console.print(table)
