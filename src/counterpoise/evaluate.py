"""Entry point of `python -m counterpoise.evaluate`."""

from counterpoise.commands.evaluate import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
