"""Write the definitions of WordNet and their lexicographer files, 45 imbalanced classes, to a CSV file.

`python benchmarks/wordnet_glosses.py glosses.csv` reads WordNet 3.0 (Princeton University; free, with its notice; `apt
install wordnet-base`) and writes the columns gloss and file. `docs/results.md` has the runs on it.
"""

import argparse
import csv
import re
from collections import Counter
from pathlib import Path

from counterpoise.errors import UserError
from counterpoise.terminal import command_line

NAMES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object "
    "noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape "
    "noun.state noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession "
    "verb.social verb.stative verb.weather adj.ppl"
)
"""Names of the lexicographer files by their numbers in the data files (`man lexnames`)."""


def read(folder: Path) -> dict[str, str]:
    """Return the class of each definition. A definition of several synsets has the class of the first."""
    names = NAMES.split()
    classes: dict[str, str] = {}
    for part in ("noun", "verb", "adj", "adv"):
        file = folder / f"data.{part}"
        if not file.is_file():
            raise UserError(f"there is no {file}: install WordNet (apt install wordnet-base), or use --wordnet FOLDER")
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            synset, gloss = line.split(" | ", 1)
            definition = re.split(r'; ?"', gloss)[0].strip()  # examples follow in quotation marks
            classes.setdefault(definition, names[int(synset.split()[1])])
    return classes


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="CSV file to write")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of data.noun etc.")
    arguments = parser.parse_args()
    classes = read(arguments.wordnet)
    with arguments.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["gloss", "file"])
        writer.writerows(classes.items())
    counts = Counter(classes.values()).most_common()
    print(f"{len(classes):,} glosses, {len(counts)} classes, from {counts[-1]} to {counts[0]}")


if __name__ == "__main__":
    command_line(main)
