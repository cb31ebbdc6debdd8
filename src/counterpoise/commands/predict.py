"""Predict the classes of new texts: `python -m counterpoise.predict RUN FILE --text COLUMN`.

RUN is a finished run, or a folder that `counterpoise.export` wrote. FILE and --output may be - for standard input and
standard output.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from counterpoise.commands.arguments import Parser
from counterpoise.commands.kept_columns import KeptColumns, add_kept_arguments, kept_names
from counterpoise.commands.predictor import BlockPredictor, load
from counterpoise.commands.run_config import read_config
from counterpoise.commands.standard_streams import INPUT_FORMATS, STANDARD, input_file, output_target
from counterpoise.commands.trusted_classes import allowed_packages
from counterpoise.data.arrow_columns import Column, chunks, format_rows, only_numbers
from counterpoise.data.dropped_rows import repeated_headers
from counterpoise.data.readers import column_names, notices_of, read_columns, suffix_of
from counterpoise.data.readers.format import FileFormat
from counterpoise.data.readers.json_lines import SUFFIXES as JSON_SUFFIXES
from counterpoise.data.table import read_texts, row_ids
from counterpoise.data.table_format import text_columns
from counterpoise.data.table_writers import DELIMITERS, TEXT_FORMATS, Stream, format_of
from counterpoise.data.text_columns import shown_columns
from counterpoise.errors import UserError
from counterpoise.metrics.adjustment import Adjustment, read_adjustment
from counterpoise.metrics.costs import least_cost, read_costs
from counterpoise.metrics.thresholds import read_thresholds
from counterpoise.saved_files import read_json, reading
from counterpoise.terminal import LogConsole
from counterpoise.training.predictions import most_probable_class, multilabel_predictions_writer, predictions_writer

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16")
CSV_FORMAT = {"delimiter": None, "quote": '"', "escape": None, "skip_rows_after_header": 0, "columns": None}
"""Default format of CSV files. The encoding of a run's training file says nothing about other files."""
CSV_OPTIONS = {"skip_rows_after_header": "--skip-rows"}
"""Options whose name differs from their key."""


def main() -> None:
    """Read the command line and write a table with one prediction per row."""
    parser = Parser(
        prog="counterpoise.predict", description="Predict the classes of new texts and write them to a table."
    )
    add_model_arguments(parser, "folder of a finished run, or of an exported model")
    add_file_arguments(parser, "texts")
    parser.add_argument("--thresholds", type=Path, help="JSON of label to threshold, instead of the run's thresholds")
    parser.add_argument(
        "--calibrated", action="store_true", help="write calibrated probabilities, and the most probable class by them"
    )
    parser.add_argument("--costs", type=Path, help="CSV of misclassification costs: adds the least-cost decision")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("predictions.parquet"),
        help="file to write: .parquet, .csv, .tsv or .jsonl (the last three also with .gz), or - for standard output",
    )
    add_kept_arguments(parser)
    parser.add_argument(
        "--escape-formulas",
        action="store_true",
        help="put an apostrophe in front of texts in CSV and TSV that a spreadsheet would run as a formula: those that "
        "start with = + - @ tab or CR and are no numbers. Such ids, labels and kept texts differ from the input then",
    )
    parser.add_argument("--input-format", choices=INPUT_FORMATS, help="format of standard input (default: csv)")
    parser.add_argument("--output-format", choices=TEXT_FORMATS, help="format of standard output (default: csv)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", handlers=[LogConsole()])

    if arguments.output != STANDARD and arguments.output.resolve() == arguments.file.resolve():
        raise UserError(f"--output {arguments.output} is the input file: name another one")
    with (
        output_target(arguments.output, arguments.output_format) as target,
        input_file(arguments.file, arguments.input_format) as arguments.file,
    ):
        predict(arguments, target)


def predict(arguments: argparse.Namespace, target: Path | Stream) -> None:
    """Predict the texts of the input file and write the predictions.

    Args:
        arguments: Parsed command line.
        target: What the predictions are written to.
    """
    written_as = target.form if isinstance(target, Stream) else format_of(target, "--output")
    if arguments.escape_formulas and written_as not in DELIMITERS:
        raise UserError(f"--escape-formulas has no effect on {written_as}: it is for CSV and TSV")
    form = FileFormat(**csv_format_of(arguments))
    table, keep = _read(arguments, form)
    for notice in notices_of(table):
        log.warning(notice)
    columns = arguments.text
    headers = np.flatnonzero(repeated_headers(table, [*columns, *([arguments.id] if arguments.id else [])])) + 1
    if len(headers):
        log.warning("%s: a header is predicted like a text in %s", arguments.file, format_rows(headers))
    texts, _ = read_texts(table, columns, str(arguments.file), "--text")
    where = f"{arguments.file}: column {shown_columns(columns)} (--text)"
    texts = _as_utf8(texts, where)
    ids = _ids(table[arguments.id], f"{arguments.file}: column {arguments.id!r} (--id)") if arguments.id else None
    if only_numbers(texts):
        log.warning("%s holds only numbers: is it the text?", where)
    kept = KeptColumns(table, keep, arguments, written_as)
    packages = allowed_packages(arguments.allow)
    model = load(arguments.run, arguments.device, arguments.precision, packages)
    model.check_columns(columns, arguments.run)
    _check_task(arguments, model)
    if arguments.thresholds:
        model.thresholds = read_thresholds(arguments.thresholds, model.labels)
    costs = read_costs(arguments.costs, model.labels) if arguments.costs else None
    adjustment = _adjustment(arguments.run, model.labels, arguments.calibrated, costs is not None)

    common: dict[str, Any] = {"reasons": True, "kept": kept.schema, "escape_formulas": arguments.escape_formulas}
    writer = (
        predictions_writer(
            target, model.labels, least_cost=costs is not None, most_probable=arguments.calibrated, **common
        )
        if model.decision is None
        else multilabel_predictions_writer(target, model.labels, **common)
    )
    written, differing, missing = 0, 0, Counter[str]()
    with writer as write:
        for logits, reasons in model.predict_blocks(texts):
            rows = range(written, written + len(logits))
            names = [str(row + 1) for row in rows] if ids is None else ids[rows.start : rows.stop].to_pylist()
            # Decisions use the raw logits, which the strategy trained and the thresholds were tuned on.
            adjusted = logits if adjustment is None else adjustment(logits)
            beside = kept.rows(rows.start, rows.stop)
            shown = adjusted if arguments.calibrated else logits
            if model.decision is not None:
                write(names, None, shown, model.decide(logits), reasons, beside)
            else:
                cheapest = None if costs is None else least_cost(softmax(adjusted.astype(np.float64), axis=1), costs)
                write(names, None, logits, shown, cheapest, reasons, beside)
                decided = logits.argmax(axis=1)
                predicted = reasons.is_null().to_numpy(zero_copy_only=False)
                differing += int((predicted & (most_probable_class(shown, decided) != decided)).sum())
            written = rows.stop
            missing.update(reasons.drop_null().to_pylist())
    for reason, count in sorted(missing.items()):
        log.warning("%s: %d of %d rows are not predicted: %s", arguments.file, count, written, reason)
    written -= missing.total()
    if differing:
        log.warning(
            "%s of %s predictions (%.0f%%) are not the most probable class by the calibrated probabilities. "
            "Predictions are those of the uncalibrated model; the column most_probable holds the other class",
            f"{differing:,}",
            f"{written:,}",
            100 * differing / written,
        )
    place = "standard output" if arguments.output == STANDARD else arguments.output
    print(f"{written:,} {'prediction' if written == 1 else 'predictions'} in {place}")


def _read(arguments: argparse.Namespace, form: FileFormat) -> tuple[pa.Table, list[str]]:
    """Return the columns of the text and the ids and those to keep, and the names of the latter.

    Columns that are not given are those of the run's data.
    """
    trained = trained_reading(arguments.run)
    arguments.text = chosen_text_columns(arguments.text, trained)
    inherited = None if arguments.id else trained.get("id")
    arguments.id = arguments.id or inherited
    first, *others = arguments.text
    ids, kept = [arguments.id] if arguments.id else [], kept_names(arguments, form)
    try:
        return read_columns(arguments.file, first, [*others, *ids, *kept], form), kept
    except UserError as error:
        if inherited is None or f"no column {inherited!r}" not in str(error):
            kept_only = {*kept} - {first, *others, arguments.id}
            if arguments.keep_all and any(f"column {name!r}" in str(error) for name in kept_only):
                raise UserError(f"{error}. Name the columns to keep with --keep instead of --keep-all") from error
            _explain_list("--keep", kept, "repeat --keep", arguments.file, form, error)
            only = "the model reads texts of one column"
            _explain_list("--text", arguments.text, only, arguments.file, form, error)
            raise
        warn_of_missing_ids(arguments.file, inherited)
        arguments.id = None
        return read_columns(arguments.file, first, [*others, *kept], form), kept


def _explain_list(
    option: str, names: Sequence[str], advice: str, file: Path, form: FileFormat, error: UserError
) -> None:
    """Raise UserError with advice if the column that a file lacks is a list of its columns, separated by commas."""
    for name in names:
        if f"no column {name!r}" in str(error) and {*name.split(",")} <= {*column_names(file, form)}:
            raise UserError(f"{option} {name}: {file} has no such column, but each of these: {advice}") from error


def given_columns(option: str | None, several: bool) -> list[str]:
    """Return the columns that an option names. If there can be `several`, commas separate their names."""
    if not option:
        return []
    return option.split(",") if several else [option]


def chosen_text_columns(option: str | None, data: Mapping[str, Any]) -> list[str]:
    """Return the columns of the text that `--text` names, by default those of the run's data.

    Args:
        option: Value of `--text`.
        data: Configuration of the run's data.
    """
    of_run = text_columns(data.get("text"))
    return given_columns(option, len(of_run) > 1) or of_run


def warn_of_missing_ids(file: Path, column: str) -> None:
    """Warn that a file lacks the column of ids of the run's data."""
    log.warning("%s has no column %r, which holds the ids of the run's data: ids are row numbers", file, column)


def add_model_arguments(parser: argparse.ArgumentParser, model: str = "folder of a finished run") -> None:
    """Add the run folder, described by `model`, and how to load its model."""
    parser.add_argument("run", type=Path, help=model)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU if there is one (default)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto: bf16 on a GPU with bfloat16 units, else fp32"
    )
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="package whose classes the run's config.yaml may name, besides counterpoise and the project in the "
        "working directory",
    )


def add_file_arguments(parser: argparse.ArgumentParser, content: str) -> None:
    """Add the input file and how to read it. `content` names what the file holds."""
    parser.add_argument("file", type=Path, help=f"{content}: .csv .tsv .jsonl (plain or .gz) or .parquet")
    parser.add_argument(
        "--text", help="column of the text, or several columns separated by commas (default: as in the run)"
    )
    parser.add_argument("--id", help="column of row ids (default: as in the run, else the row number)")
    default = "default: as in the run's training file, for a file with the same suffix"
    for key, option, kind, description in (
        ("delimiter", "--delimiter", _character, "delimiter of a CSV"),
        ("quote", "--quote", _character, "quote character of a CSV, '' for none"),
        ("escape", "--escape", _character, "character of a CSV before a quotation mark inside a text"),
        ("skip_rows_after_header", "--skip-rows", int, "rows to skip after the header of a CSV"),
        ("columns", "--columns", lambda names: names.split(","), "names of the columns of a CSV without a header: A,B"),
    ):
        parser.add_argument(option, dest=key, type=kind, default=argparse.SUPPRESS, help=f"{description} ({default})")
    parser.add_argument("--encoding", default=argparse.SUPPRESS, help="encoding of the file (default: detect it)")


def csv_format_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the CSV format: the given options, otherwise that of the run's training file of the same suffix."""
    given = {key: vars(arguments)[key] for key in (*CSV_FORMAT, "encoding") if key in arguments}
    suffix = suffix_of(arguments.file)
    for key in given:
        if suffix == ".parquet" or (suffix in JSON_SUFFIXES and key != "encoding"):
            raise UserError(f"{CSV_OPTIONS.get(key, '--' + key)} has no effect: {arguments.file} is not a CSV file")
    trained = trained_reading(arguments.run)
    if trained.get("suffix") != suffix:
        return given
    unusual = {key: trained[key] for key, default in CSV_FORMAT.items() if trained.get(key, default) != default}
    inherited = {key: value for key, value in unusual.items() if key not in given}
    if inherited:
        options = ", ".join(f"{key}={value!r}" for key, value in inherited.items())
        log.info("%s is read like the run's training file: %s", arguments.file, options)
    return given | inherited


def trained_reading(run: Path) -> dict[str, Any]:
    """Return how a run or an exported model read its training file. See `training_csv_format`."""
    exported = run / "export.json"
    if exported.is_file():
        with reading(exported):
            return dict(read_json(exported).get("reading") or {})
    return training_csv_format(read_config(run))


def training_csv_format(config: dict[str, Any]) -> dict[str, Any]:
    """Return the CSV format of a run's training file, the file's suffix, and the columns of the text and the ids."""
    data = config["data"]
    csv_format = {key: data.get(key, default) for key, default in CSV_FORMAT.items()}
    columns = {name: data.get(name) for name in ("text", "id")}
    return csv_format | columns | {"suffix": suffix_of(Path(str(data.get("train") or "")))}


def _check_task(arguments: argparse.Namespace, model: BlockPredictor) -> None:
    """Raise UserError for `--thresholds` and `--costs` if the model does not decide by them."""
    if arguments.thresholds:
        if model.decision is None:
            raise UserError(f"--thresholds: {arguments.run} is a single-label model, which has no thresholds")
        if model.decision.top_k is not None:
            raise UserError(
                f"--thresholds: {arguments.run} predicts the {model.decision.top_k} most probable labels "
                "(decision.top_k), without thresholds"
            )
    if arguments.costs and model.decision is not None:
        raise UserError(f"--costs: {arguments.run} is a multi-label model, and costs are for single-label models")


def _adjustment(run: Path, labels: list[str], calibrated: bool, costs: bool) -> Adjustment | None:
    """Return the calibration of the run if calibrated probabilities or costs need it."""
    path = run / "calibration.json"
    if calibrated and not path.is_file():
        raise UserError(f"--calibrated: {run} has no calibration.json")
    if costs and not path.is_file():
        log.warning("%s has no calibration.json: expected costs use raw probabilities", run)
    if not (calibrated or costs) or not path.is_file():
        return None
    return read_adjustment(path, labels)


def _character(option: str) -> str | None:
    character = option.replace("\\t", "\t")
    if len(character) > 1 or not character.isascii():
        raise UserError(f"{option!r} is not a delimiter, quote or escape: use one ASCII character")
    return character or None


def _as_utf8(column: Column, where: str) -> pa.ChunkedArray:
    """Return texts as large_string; raise UserError before the first prediction if a value is not in UTF-8."""
    try:
        return pa.chunked_array([chunk.cast(pa.large_string()) for chunk in chunks(column)], pa.large_string())
    except pa.ArrowException as error:
        raise UserError(f"{where} is not text in UTF-8") from error


def _ids(column: pa.ChunkedArray, where: str) -> Column:
    """Return the ids of the rows; raise UserError for ids that are not UTF-8."""
    ids, bad = row_ids(column, where)
    if bad.any():
        raise UserError(f"{where} is not in UTF-8 in {format_rows(np.flatnonzero(bad) + 1)}")
    return ids
