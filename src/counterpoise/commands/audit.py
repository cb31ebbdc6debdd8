"""Audit texts and labels before training: `python -m counterpoise.audit data=debtags`, with the overrides of train.py.

Prints class counts and imbalance, equal and near-duplicate texts, leaks between splits, conflicting labels, token
lengths, unusual texts, data warnings and a recommended strategy. `--output FOLDER` also writes audit.json and the rows
in question as CSV.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, flag_override
from rich.text import Text

from counterpoise.commands.arguments import Parser
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.terminal import LogConsole, console, status
from counterpoise.training.config_types import check_types


def main() -> None:
    """Read the command line, measure the data quality, print it and write the files."""
    parser = Parser(
        prog="counterpoise.audit",
        description="Check texts and labels before training: imbalance, duplicates, leaks, conflicts and lengths.",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides as for train.py, such as data=files"
    )
    parser.add_argument("--output", type=Path, help="folder for audit.json and the rows in question as CSV")
    arguments = parser.parse_intermixed_args()
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a file; it must be a folder")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", handlers=[LogConsole()])
    config = compose_config(arguments.overrides)

    # These imports take seconds, because they import PyTorch: report faults of the arguments first.
    from counterpoise.commands.audit_page import show
    from counterpoise.commands.data_quality import measure
    from counterpoise.csv_tables import write_csv
    from counterpoise.data.datamodule import TextDataModule
    from counterpoise.data.token_store import load_tokenizer

    encoder = instantiate(config.encoder)
    data = TextDataModule(
        instantiate(config.data),
        load_tokenizer(encoder.locate(), encoder.revision),
        encoder.tokenisation,
        seed=config.seed,
        **config.loader,
    )
    data.prepare_data()
    data.setup()
    with status("comparing the texts"):
        findings, tables = measure(data, instantiate(config.buckets))
    console.print(Text(f"\naudit of data={HydraConfig.get().runtime.choices['data']}\n", "bold"))
    show(findings)
    if arguments.output:
        with atomic_path(arguments.output / "audit.json") as path:
            path.write_text(json.dumps(findings, indent=2, ensure_ascii=False), encoding="utf-8")
        for name, table in tables.items():
            write_csv(table, arguments.output / f"{name}.csv")
        console.print(f"wrote audit.json and {len(tables)} CSV files to {arguments.output}", markup=False)


def config_source() -> tuple[Path, str]:
    """Return the folder and the name of the configuration of train.py.

    The folder is ./conf, else the installed `counterpoise.conf`, else conf/ of the checkout. In ./conf of a fork, the
    configuration is the YAML file that sets `hydra.searchpath`.

    Raises:
        UserError: None of the folders has a configuration.
    """
    folders = [Path.cwd() / "conf"]
    forks = [
        path for path in folders[0].glob("*.yaml") if "pkg://counterpoise.conf" in path.read_text(encoding="utf-8")
    ]
    if len(forks) == 1:
        return folders[0], forks[0].stem
    with suppress(ModuleNotFoundError):  # An editable install has no counterpoise.conf.
        folders.append(Path(str(files("counterpoise.conf"))))
    folders.append(Path(__file__).resolve().parents[3] / "conf")
    for folder in folders:
        if (folder / "train.yaml").is_file():
            return folder, "train"
    raise UserError(f"{folders[0] / 'train.yaml'} does not exist: run this command in the project's folder")


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of train.py with these overrides."""
    folder, name = config_source()
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with flag_override(config, ["struct", "readonly"], False):
            del config.hydra
        check_types(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    return config
