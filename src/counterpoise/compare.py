"""Entry point of `python -m counterpoise.compare`."""

from counterpoise.commands.compare import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
