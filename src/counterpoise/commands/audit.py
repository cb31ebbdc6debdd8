"""Audits texts and labels before training: `python -m counterpoise.audit data=debtags`, with the overrides of train.py.

Shows counts and imbalance, repeated and leaking texts, conflicting labels, lengths and truncation, odd texts, and a
strategy to start with. `--output FOLDER` also writes quality.json, and as CSV the rows concerned.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, flag_override
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from counterpoise.data import near_duplicates, quality
from counterpoise.data.datamodule import TextDataModule
from counterpoise.data.token_store import load_tokenizer
from counterpoise.errors import UserError
from counterpoise.io import atomic_path
from counterpoise.metrics.buckets import Bounds, buckets
from counterpoise.terminal import console
from counterpoise.training.config_types import check_types

PERCENTILES = {"median": 50, "95%": 95, "99%": 99, "longest": 100}
FLOWS = (("validation", "train"), ("test", "train"), ("test", "validation"))
"""Which split leaks when which other has its texts."""
EXAMPLES = 3
START = 200
"""Characters of a text in the CSV files."""


def main() -> None:
    """Reads the command line, measures, shows, and writes what is asked for."""
    parser = argparse.ArgumentParser(prog="counterpoise.audit", description=__doc__.partition("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: data=files data.train=FILE")
    parser.add_argument("--output", type=Path, help="folder for quality.json, and the rows concerned as CSV")
    arguments = parser.parse_intermixed_args()
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output {arguments.output} is a file; it must be a folder")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    config = composed(arguments.overrides)
    encoder = instantiate(config.encoder)
    data = TextDataModule(
        instantiate(config.data),
        load_tokenizer(encoder.locate(), encoder.revision),
        max_length=encoder.max_length,
        seed=config.seed,
        **config.loader,
    )
    data.prepare_data()
    data.setup()
    with console.status("comparing the texts"):
        facts, tables = measured(data, instantiate(config.buckets))
    console.print(Text(f"\naudit of data={HydraConfig.get().runtime.choices['data']}\n", "bold"))
    show(facts)
    if arguments.output:
        with atomic_path(arguments.output / "audit.json") as path:
            path.write_text(json.dumps(facts, indent=2, ensure_ascii=False))
        for name, table in tables.items():
            with atomic_path(arguments.output / f"{name}.csv") as path:
                table.to_csv(path, index=False)
        console.print(f"audit.json and the rows concerned as CSV are in {arguments.output}", markup=False)


def composed(overrides: Sequence[str]) -> DictConfig:
    """Returns the configuration of train.py with these overrides, from conf/ here or in the project's folder."""
    folders = [Path.cwd() / "conf", Path(__file__).resolve().parents[3] / "conf"]
    conf = next((folder for folder in folders if (folder / "train.yaml").is_file()), None)
    if conf is None:
        raise UserError(f"there is no {folders[0] / 'train.yaml'}: start this in the folder of train.py")
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with flag_override(config, ["struct", "readonly"], False):
            del config.hydra
        check_types(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    return config


@dataclass(frozen=True)
class Compared:
    """The rows of all splits as one list of N, and which of their texts are equal or near.

    groups: int64 [N], the same for equal texts. first: int64 [G], the first row of each group. near: pairs of groups.
    """

    data: TextDataModule
    rows: quality.Rows
    ids: list[str]
    groups: np.ndarray
    first: np.ndarray
    near: near_duplicates.SimilarPairs

    @classmethod
    def of(cls, data: TextDataModule) -> "Compared":
        """Compares the texts of all splits."""
        rows = quality.stack_splits(data.splits)
        groups = quality.group_equal_texts(rows.texts)
        first = np.unique(groups, return_index=True)[1]
        ids = [name for part in data.splits.values() for name in part.ids]
        return cls(
            data, rows, ids, groups, first, near_duplicates.find_near_duplicates(rows.texts.take(pa.array(first)))
        )

    def listing(self, numbers: Any, prefix: str = "") -> pd.DataFrame:
        """Returns split, id, labels ("|" between them) and how the text begins, for each of `numbers` (int [M])."""
        names, labels, targets = list(self.data.splits), self.data.labels, self.rows.targets[numbers]
        if isinstance(targets, np.ndarray):
            joined = [labels[c] for c in targets]
        else:
            sets = np.split(targets.indices, targets.indptr[1:-1])
            joined = ["|".join(labels[c] for c in each) for each in sets[: len(numbers)]]
        texts = self.rows.texts.take(pa.array(numbers, pa.int64())).to_pylist()
        columns = {
            "split": [names[part] for part in self.rows.part[numbers]],
            "id": [self.ids[row] for row in numbers],
            "labels": joined,
            "text": [text[:START] for text in texts],
        }
        return pd.DataFrame(columns).add_prefix(prefix)


def measured(data: TextDataModule, bounds: Bounds) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Returns the facts, as quality.json holds them, and the rows concerned by the name of their CSV file.

    data: after `setup`. bounds: of head, medium and tail.
    """
    compared = Compared.of(data)
    odd = quality.unusual_texts(compared.rows.texts)
    tables = _tables(compared, odd)
    bucket, counts, rows = buckets(data.counts, **bounds._asdict()), data.counts, len(data.splits["train"])
    tail = int((bucket == "tail").sum())
    strategy, reason = quality.recommend_strategy(counts, rows, data.task == "multi_label", tail)
    facts = {
        "task": data.task,
        "max_length": data.max_length,
        "imbalance": quality.imbalance(counts),
        "buckets": {
            name: {"number": int((bucket == name).sum()), "examples": int(counts[bucket == name].sum())}
            for name in ("head", "medium", "tail")
        },
        "bounds": bounds._asdict(),
        "counts": {data.labels[c]: int(counts[c]) for c in np.argsort(-counts, kind="stable")},
        "splits": _of_splits(compared, odd),
        "leaks": [_leak(tables["leaks"], into, source, len(data.splits[into])) for into, source in FLOWS],
        "conflicts": _conflicts(tables["equal_texts"]),
        "remarkable": quality.find_data_warnings(data.splits, data.labels),
        "recommended": {"strategy": strategy, "reason": reason},
    }
    return facts, tables


def _tables(compared: Compared, odd: Mapping[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """Returns the rows concerned, by what they are.

    equal_texts: the rows of every text that occurs more than once. near_texts: pairs, the first row of each text.
    leaks: rows of validation and test that training, or validation, has too. odd_texts: rows, by what is odd.
    """
    groups, first, near, listing = compared.groups, compared.first, compared.near, compared.listing
    repeated = np.flatnonzero(np.bincount(groups)[groups] > 1)
    repeated = repeated[np.argsort(groups[repeated], kind="stable")]
    conflicting = np.isin(groups[repeated], quality.conflicting_groups(groups, compared.rows.targets))
    equal = pd.DataFrame({"group": groups[repeated], "conflict": conflicting})
    pairs = pd.DataFrame({"similarity": near.similarity.round(3)})
    names = list(compared.data.splits)
    flows = ((names.index(source), names.index(into)) for into, source in FLOWS)
    leaks = pd.concat(
        [quality.leaks(groups, compared.rows.part, *flow, near) for flow in flows], ignore_index=True
    ).round({"similarity": 3})
    reasons = pd.DataFrame({"odd": [reason for reason, rows in odd.items() for _ in rows]})
    return {
        "equal_texts": equal.join(listing(repeated)),
        "near_texts": pairs.join(listing(first[near.left])).join(listing(first[near.right], "other_")),
        "leaks": leaks[["similarity", "equal"]].join(listing(leaks["row"])).join(listing(leaks["of"], "of_")),
        "odd_texts": reasons.join(listing(np.concatenate(list(odd.values())))),
    }


def _of_splits(compared: Compared, odd: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Returns the facts of each split."""
    data, groups = compared.data, compared.groups
    lengths = quality.token_lengths(compared.rows.texts, data.tokenizer.backend_tokenizer)
    facts = {}
    for number, (name, part) in enumerate(data.splits.items()):
        mine = compared.rows.part == number
        held, tokens = quality.label_counts(part.targets, len(data.labels)), lengths[mine]
        facts[name] = {
            "rows": len(part),
            "dropped": part.split.dropped if name == part.split.name else {},  # else counted where it was split off
            "unseen": part.unseen,
            "unlabelled": quality.count_unlabelled(part.targets),
            "labels_per_text": float(held.sum() / len(part)),
            "absent": [data.labels[c] for c in np.flatnonzero(held == 0)],
            "rare": [data.labels[c] for c in np.flatnonzero((held > 0) & (held < quality.MIN_TEST_EXAMPLES))],
            "repeats": int(mine.sum()) - len(np.unique(groups[mine])),
            "with_near": int(quality.has_near_duplicate(groups[mine], compared.near).sum()),
            "tokens": {key: int(np.percentile(tokens, at)) for key, at in PERCENTILES.items()},
            "truncated": float((tokens > data.max_length).mean()),
            "odd": {reason: int(mine[found].sum()) for reason, found in odd.items()},
        }
    return facts


def _leak(leaks: pd.DataFrame, into: str, source: str, rows: int) -> dict[str, Any]:
    found = leaks[(leaks.split == into) & (leaks.of_split == source)]
    equal = int(found.equal.sum())
    examples = found[["id", "of_id", "similarity", "text"]].head(EXAMPLES).to_dict("records")
    return {"split": into, "in": source, "equal": equal, "near": len(found) - equal, "of": rows, "examples": examples}


def _conflicts(equal: pd.DataFrame) -> dict[str, Any]:
    found = equal[equal.conflict]
    groups = [group for _, group in found.groupby("group", sort=False)]
    columns = ["split", "id", "labels"]
    examples = [group[columns].drop_duplicates("labels").to_dict("records") for group in groups[:EXAMPLES]]
    return {"texts": len(groups), "rows": len(found), "examples": examples}


def show(facts: dict[str, Any]) -> None:
    """Prints the facts that `measured` returns, as a page of at most 80 columns."""
    noun = "classes" if facts["task"] == "single_label" else "labels"
    page: list[RenderableType] = [*_counts(facts, noun), *_splits(facts, noun), *_leaks(facts)]
    conflicts, test = facts["conflicts"], facts["splits"]["test"]
    if conflicts["texts"]:
        title = f"{conflicts['texts']:,} texts occur with different {noun}, in {conflicts['rows']:,} rows"
        lines = [", ".join(f"{e['split']} {e['id']}: {e['labels']}" for e in rows) for rows in conflicts["examples"]]
        page.append(_listed(f"{title}, such as", lines))
    for key, title in (
        ("absent", "without a test text"),
        ("rare", f"with 1 to {quality.MIN_TEST_EXAMPLES - 1} test texts"),
    ):
        if test[key]:
            page.append(_listed(f"{len(test[key]):,} {noun} {title}", [_first(test[key], 8)]))
    if facts["remarkable"]:
        page.append(_listed("in short", facts["remarkable"]))
    start = facts["recommended"]
    page.append(_listed(f"start with strategy={start['strategy']}", [start["reason"]]))
    for each in page:
        console.print(each, width=min(console.width, 80))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    return table


def _note(text: str) -> Padding:
    return Padding(Text(text, "dim"), (0, 0, 1, 0))


def _listed(title: str, lines: Sequence[str]) -> Group:
    grid = Table.grid(padding=(0, 1))
    for line in lines:
        grid.add_row("-", Text(line))
    return Group(Text(title, "bold"), Padding(grid, (0, 0, 1, 0)))


def _counts(facts: dict[str, Any], noun: str) -> Iterator[RenderableType]:
    unequal, bounds, counts = facts["imbalance"], facts["bounds"], facts["counts"]
    table = _table(f"{len(counts):,} {noun} by training count", "", noun, "examples", "share")
    ranges = {
        "head": f"{bounds['head_min']} or more",
        "medium": f"{bounds['tail_max']} to {bounds['head_min'] - 1}",
        "tail": f"under {bounds['tail_max']}",
    }
    total = sum(counts.values())
    for name, bucket in facts["buckets"].items():
        share = f"{bucket['examples'] / total:.1%}"
        table.add_row(f"{name}: {ranges[name]}", f"{bucket['number']:,}", f"{bucket['examples']:,}", share)
    yield table
    ratio = f"{unequal['ratio']:,.{0 if unequal['ratio'] >= 10 else 1}f}"
    named = [f"{name} {count:,}" for name, count in counts.items()]
    ends = f"largest: {_first(named, 4, False)}; smallest: {_first(named[:-5:-1], 4, False)}" if len(named) > 8 else ""
    yield _note(
        f"imbalance {ratio} : 1; normalised entropy {unequal['entropy']:.2f} (1: equal "
        f"counts), Gini {unequal['gini']:.2f} (0: equal); half of all in the largest {unequal['half']:,}\n"
        + (ends or ", ".join(named))
    )


def _splits(facts: dict[str, Any], noun: str) -> Iterator[RenderableType]:
    splits = facts["splits"]
    table = _table("splits", "", *splits)

    def row(title: str, values: Sequence[Any], always: bool = False) -> None:
        if always or any(values):
            shown = [f"{value:,}" if isinstance(value, int) else f"{value:.2g}" for value in values]
            table.add_row(title, *(value if value != "0" else "-" for value in shown))

    def each(key: str) -> list[Any]:
        return [part[key] for part in splits.values()]

    row("texts", each("rows"), True)
    for reason in dict.fromkeys(reason for dropped in each("dropped") for reason in dropped):
        row(f"left out: {reason}", [dropped.get(reason, 0) for dropped in each("dropped")])
    row(f"with {noun} that training lacks", each("unseen"))
    row("without a label", each("unlabelled"))
    if facts["task"] == "multi_label":
        row("labels per text", each("labels_per_text"))
    row(f"{noun} without a text", [len(names) for names in each("absent")])
    row(f"{noun} with under {quality.MIN_TEST_EXAMPLES} texts", [len(names) for names in each("rare")])
    row("equal to an earlier text", each("repeats"), True)
    row("near another text", each("with_near"), True)
    for key in PERCENTILES:
        row(f"tokens, {key}", [part["tokens"][key] for part in splits.values()], True)
    table.add_row(f"cut at {facts['max_length']} tokens", *(f"{share:.1%}" for share in each("truncated")))
    for reason in splits["train"]["odd"]:
        row(reason, [part["odd"][reason] for part in splits.values()])
    yield table
    yield _note(
        f"equal: but for case and spaces; near: not equal, but with a similarity of {near_duplicates.MIN_SIMILARITY} or more "
        f"(Jaccard, of all runs of {near_duplicates.SHINGLE} letters)"
    )


def _leaks(facts: dict[str, Any]) -> Iterator[RenderableType]:
    table = _table("texts of one split that another has too", "", "equal", "near", "share")
    for leak in facts["leaks"]:
        shown = (f"{leak[kind]:,}" if leak[kind] else "-" for kind in ("equal", "near"))
        table.add_row(f"{leak['split']} in {leak['in']}", *shown, f"{(leak['equal'] + leak['near']) / leak['of']:.1%}")
    yield table
    for leak in facts["leaks"]:
        if leak["examples"]:
            title = f"{leak['split']} in {leak['in']}, such as (row, the other row, similarity, text)"
            lines = (f"{e['id']}, {e['of_id']}, {e['similarity']:.2f}: {e['text']}" for e in leak["examples"])
            yield _listed(title, [_line(each) for each in lines])


def _line(text: str, most: int = 78) -> str:
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."


def _first(names: Sequence[str], most: int, more: bool = True) -> str:
    rest = f" and {len(names) - most:,} more" if more and len(names) > most else ""
    return ", ".join(names[:most]) + rest
