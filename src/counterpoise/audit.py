"""Entry point of `python -m counterpoise.audit`."""

from counterpoise.commands.audit import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
