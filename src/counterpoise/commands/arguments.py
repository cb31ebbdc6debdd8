"""Command lines of the commands: mistakes are refused in one line that names the option that is meant."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from counterpoise.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """Parser that raises UserError instead of printing its usage, and refuses repeated options that hold one value."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Check the options, then parse the arguments.

        Raises:
            UserError: An option does not exist or is repeated, or the arguments are not as the usage says.
        """
        if args is not None:
            self._check_options(args)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse `sys.argv` by default. See `parse_known_args`."""
        return super().parse_args(_given(args), namespace)

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse `sys.argv` by default. See `parse_known_args`."""
        return super().parse_intermixed_args(_given(args), namespace)

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; --help lists the arguments")

    def _check_options(self, args: Sequence[str]) -> None:
        known = self._option_string_actions
        given = [arg.partition("=")[0] for arg in _before_separator(args) if _is_option(arg)]
        for option in given:
            if not any(name.startswith(option) for name in known) and option[:2] not in known:
                raise UserError(f"{option}: no such option.{nearest(option, known)} --help lists all")
        for option, action in known.items():
            if given.count(option) > 1 and type(action) is argparse._StoreAction:
                several = "separated by commas" in (action.help or "")
                hint = f", with several columns separated by commas: {option} A,B" if several else ""
                raise UserError(f"{option} is given {given.count(option)} times: give it once{hint}")


def _given(args: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if args is None else args


def _before_separator(args: Sequence[str]) -> Sequence[str]:
    """Return the arguments before "--", after which there are no options."""
    return args[: args.index("--")] if "--" in args else args


def _is_option(argument: str) -> bool:
    """Return whether argparse takes an argument for an option: not "-", a negative number or a text with spaces."""
    return len(argument) > 1 and argument[0] == "-" and " " not in argument and not argument[1].isdigit()
