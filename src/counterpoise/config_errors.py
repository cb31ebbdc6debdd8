"""Errors of Hydra and OmegaConf as one line that says what would be right."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml

from counterpoise.errors import UserError, nearest

MAX_SUGGESTIONS = 3
"""Keys that the message about an unknown key suggests."""
OTHER_NAMES = {
    "optim.encoder_lr": ("learning_rate",),
    "optim.warmup": ("warmup_steps", "warmup_ratio"),
    "trainer.max_epochs": ("epochs", "num_epochs", "num_train_epochs", "n_epochs"),
    "loader.batch_size": ("batch", "train_batch_size", "per_device_train_batch_size"),
    "loader.num_workers": ("workers",),
    "encoder.name": ("model", "model_name", "model_name_or_path", "pretrained"),
    "encoder.max_length": ("max_len", "max_seq_len", "max_seq_length", "max_tokens"),
    "data.train": ("train_file", "train_path", "dataset"),
    "data.text": ("text_column",),
    "data.label": ("label_column", "labels"),
    "strategy.weights.beta": ("class_weight", "class_weights", "pos_weight"),
    "trainer.devices": ("gpus",),
    "trainer.precision": ("fp16", "bf16"),
    "ckpt": ("resume", "checkpoint", "resume_from_checkpoint"),
    "hydra.run.dir": ("output_dir", "output"),
}
"""Keys by the names that other tools give them."""


def config_error_line(error: BaseException) -> str | None:
    """Return the message for an error of Hydra or OmegaConf, or None for any other exception."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return _parse_error_line(error.override)
    if isinstance(error, ValueError) and "Config group override must be a string" in str(error):
        return (
            "null is not an option of a configuration group; to remove a group write '~GROUP', as '~strategy/schedule'"
        )
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _config_message(str(error))
    return None


def reject_options(arguments: Sequence[str]) -> None:
    """Raise UserError for options such as `--max_epochs 3`: settings are written KEY=VALUE.

    Args:
        arguments: Arguments of a Hydra application.
    """
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _raise_parser_error  # type: ignore[method-assign]
    unknown = parser.parse_known_args(arguments)[1]
    options = [each for each in unknown if each.startswith("-")]
    if not options:
        if unknown:
            raise UserError(f"{unknown[0]}: write options, which begin with a dash, in front of all settings KEY=VALUE")
        return
    option, _, value = options[0].partition("=")
    following = arguments[arguments.index(options[0]) + 1 :][:1]
    if not value and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    key = option.lstrip("-").replace("-", "_")
    known = _configured_keys(_conf())
    if key in known or key in _groups():
        raise UserError(f"{option}: settings have no dashes; write {key}={value or '...'}")
    keys = suggested_keys(key, known)
    others = [each for each in parser._option_string_actions if each.startswith("--")]
    similar = get_close_matches(option, others, n=MAX_SUGGESTIONS, cutoff=0.7)
    if similar and not any(key in (each.rpartition(".")[2], *OTHER_NAMES.get(each, ())) for each in keys):
        raise UserError(f"{option}: no such option; did you mean {' or '.join(similar)}? --help lists all")
    written = " or ".join(f"{each}={value or '...'}" for each in keys)
    meant = f"; did you mean {written}?" if keys else ""
    raise UserError(f"{option}: settings are written KEY=VALUE without dashes{meant}; --help lists them")


def _raise_parser_error(message: str) -> NoReturn:
    """Raise UserError for arguments that Hydra's parser refuses."""
    raise UserError(f"{message}; --help lists the options")


def quoted_override(override: str) -> str | None:
    """Return the override with its value in quotes, as it can be typed in a shell.

    Args:
        override: KEY=VALUE as Hydra received it. The value is text, or a list of texts in brackets.

    Returns:
        None if no quoted form gives this value. A mapping has none, because its keys cannot be quoted.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = override.partition("=")
    if not equals or not value.isprintable() or (value.startswith("{") and value.endswith("}")):
        return None
    wanted: str | list[str] = value
    if value.startswith("[") and value.endswith("]"):
        wanted = [item.strip() for item in value[1:-1].split(",")]
    for quoted in _quoted_values(wanted):
        try:
            parsed = OverridesParser.create().parse_override(f"{key}={quoted}")
        except HydraException:
            continue
        found = parsed.value()
        if found == wanted:
            return shlex.quote(f"{key}={quoted}")
    return None


def _quoted_values(value: str | list[str]) -> Iterator[str]:
    """Yield the value in double and in single quotes, first in those that the value does not contain."""
    for quote in sorted("\"'", key=lambda quote: quote in "".join(value)):
        items = [_quoted(item, quote) for item in ([value] if isinstance(value, str) else value)]
        yield items[0] if isinstance(value, str) else f"[{','.join(items)}]"


def _quoted(text: str, quote: str) -> str:
    """Return the text as a quoted value of Hydra's grammar."""
    # A backslash is special only before a quote: double it there, and escape the quote.
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda found: found[1] * 2 + (f"\\{quote}" if found[2] else ""), text)
    return f"{quote}{escaped}{quote}"


def _parse_error_line(override: str) -> str:
    """Return the message for an override that Hydra's grammar does not accept."""
    shown = override if override.isprintable() else ascii(override)[1:-1]
    quoted = quoted_override(override)
    if quoted is None:
        return f"cannot parse '{shown}': write KEY=VALUE, or set it in a YAML file such as conf/experiment/NAME.yaml"
    return f"cannot parse '{shown}': the value needs two pairs of quotes: {quoted}"


def _ambiguous_line(override: str) -> str:
    """Return the message for several values without `-m`."""
    key, _, value = override.partition("=")
    text = quoted_override(override)
    return (
        f"{override} has several values, separated by commas. For one text with a comma write {text}; for a list "
        f"{shlex.quote(f'{key}=[{value}]')}; to train once with each value add -m"
    )


def _config_message(message: str) -> str:
    """Return Hydra's multi-line message as one line that names the key and the closest valid name."""
    if found := re.search(r"Ambiguous value for argument '(?P<override>.*)'\n", message):
        return _ambiguous_line(found["override"])
    if found := re.search(r"Could not find '(?P<group>[^']+)/(?P<name>[^'/]+)'", message):
        listed = message.partition("Available options")[2].partition(":\n")[2].partition("\nConfig")[0]
        options = listed.split()
        group, name = found["group"], found["name"]
        return f"{group}={name}: no such {group}.{nearest(name, options)} Available: {', '.join(options)}"
    if found := re.search(r"Missing mandatory value: (?P<key>\S+)", message):
        return f"{found['key']} has no value; set {found['key']}=..."
    unknown = (
        r"(?P<what>\w+)(\.__\w+__)?\(\) got an unexpected keyword argument '(?P<name>\w+)'.*full_key: (?P<key>\S+)"
    )
    if found := re.search(unknown, message, re.DOTALL):
        key = f"{found['key']}.{found['name']}"
        return f"{key}: {found['what']} has no such setting; ~{key} removes it"
    call = r"Error in call to target '[^']+':\s+\w+\((?P<text>.*)\)\s+full_key: (?P<key>\S+)"
    if found := re.search(call, message, re.DOTALL):
        return f"{found['key']}: {' '.join(found['text'].strip(chr(34) + chr(39)).split())}"
    if found := re.search(r"Could not override '(?P<key>[^']+)'", message):
        return _unknown_key(found["key"])
    return " ".join(message.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", ":").split())


def _unknown_key(key: str) -> str:
    """Return the message for an override of a key that the configuration does not have."""
    conf = _conf()
    if (conf / key.replace(".", "/")).is_dir():
        return f"{key}: to choose an option write {key.replace('.', '/')}=NAME, with a slash"
    owners = _configured_keys(conf)
    passed_on = key.startswith(("trainer.", "callbacks.", "logger."))
    if key in owners and not passed_on:
        group = key.rpartition(".")[0].replace(".", "/")
        return f"the chosen {group} has no '{key}'; {' or '.join(f'{group}={name}' for name in owners[key])} has it"
    keys = suggested_keys(key, owners)
    meant = f" Did you mean {' or '.join(map(repr, keys))}?" if keys else ""
    line = f"the configuration has no key '{key}'.{meant}"
    # Lightning's own arguments are not all listed in conf/.
    return f"{line} To add it anyway: +{key}=..." if passed_on else line


def _conf() -> Path:
    """Return the configuration folder beside the program."""
    return Path(sys.argv[0]).resolve().parent / "conf"


def _groups() -> set[str]:
    """Return the names of the configuration groups of the program and of the installed package."""
    folders = [path for conf in (_conf(), _package_conf()) if conf.is_dir() for path in conf.iterdir() if path.is_dir()]
    return {folder.name for folder in folders if any(folder.rglob("*.yaml"))}


def _package_conf() -> Path:
    """Return the configuration folder of the installed package, which a clone does not have."""
    return Path(__file__).with_name("conf")


def _configured_keys(conf: Path) -> dict[str, list[str]]:
    """Return all dotted keys that the files of `conf` and of the installed package define, with the options that do."""
    owners: dict[str, list[str]] = {}
    for folder in (conf, _package_conf()):
        for file in sorted(folder.rglob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            if "hydra" in file.relative_to(folder).parts:
                continue
            package = [] if "@package _global_" in text else list(file.parent.relative_to(folder).parts)
            for key in _dotted_keys(yaml.safe_load(text) or {}, package):
                owners.setdefault(key, []).append(file.stem)
    return owners


def suggested_keys(key: str, known: Iterable[str]) -> list[str]:
    """Return the keys with the same last part, a part of it, or a similar spelling; none if nothing is close."""
    known = [other for other in known if other != key]
    name = key.rpartition(".")[2]
    if meant := [other for other, names in OTHER_NAMES.items() if name.lower() in names]:
        return meant
    related = [other for other in known if name in (last := other.rpartition(".")[2], *last.split("_"))]
    if related:
        # Keys of the same group first, then the shortest paths: the settings of optional parts are deeper.
        group = key.partition(".")[0]
        related.sort(key=lambda other: (other.partition(".")[0] != group, other.count(".")))
        return related[:MAX_SUGGESTIONS]
    if "." in key:
        return get_close_matches(key, known, n=1, cutoff=0.5)
    groups = {other.partition(".")[0] for other in known}
    similar = get_close_matches(name, groups | {other.rpartition(".")[2] for other in known}, n=1)
    return similar if not similar or similar[0] in groups else suggested_keys(similar[0], known)


def _dotted_keys(node: Mapping[str, Any], path: list[str]) -> Iterator[str]:
    """Yield the dotted keys of all values and mappings below `node`, which is found at `path`."""
    for key, value in node.items():
        yield ".".join([*path, str(key)])
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, [*path, str(key)])
