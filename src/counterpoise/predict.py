"""Entry point of `python -m counterpoise.predict`."""

from counterpoise.commands.predict import main
from counterpoise.terminal import command_line

if __name__ == "__main__":
    command_line(main)
