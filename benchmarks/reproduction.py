"""Write docs/reproduction.md: the paper's claims beside what the shipped beacons and recorded comparisons say of them.

    python benchmarks/reproduction.py            # writes the page and its pictures
    python benchmarks/reproduction.py --check    # compares with what is there, and fails where anything differs

Beacons are those of every task in ``envs/`` that has some; comparisons lie in ``benchmarks/results/journeys/ENV/`` as
``runs.parquet`` and ``epochs.parquet``, where ``autobatch compare`` wrote them. The same data give the same bytes
under the same versions of numpy, scipy and matplotlib.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from autobatch import BeaconLibrary
from autobatch._artefacts import holds_beacons
from autobatch._files import write_whole
from autobatch.evidence import claims_markdown, load_epochs_table, load_runs, paper_claims
from autobatch.report import draw_paper_figures
from autobatch.report.paper import is_perceptron, save_figure

PAGE, PICTURES = "reproduction.md", "images/paper"
SHOWN = {1: "position and error", 7: "a perceptron", 5: "dynamic sampling", 6: "loss and error", 2: "over the epochs"}
MOST_PICTURES = 3

HEAD = """\
# The paper's claims, and what was seen here

The method comes from Liao, Drummond, Reid and Carneiro, "Approximate Fisher Information Matrix to Characterize the
Training of Deep Neural Networks" (IEEE TPAMI, 2018,
[doi 10.1109/TPAMI.2018.2876413](https://doi.org/10.1109/TPAMI.2018.2876413)). This page sets its claims beside figures
from our own recorded trainings, whether they bear the claims out or not. It is made by `benchmarks/reproduction.py`
from the beacons in `envs/` and the comparisons in `benchmarks/results/journeys/`; nothing in it is written by hand. How
to make such figures of your own beacons is told [here](how-to/paper-figures.md).

**All of it is smaller than in the paper**, which trains networks of 110 layers for 320 epochs on the 50,000 images of
CIFAR-10 and CIFAR-100 and for 40 on SVHN, and networks of 8 layers for 40 epochs on MNIST, with five seeds and, on one
GPU each, batches of 8 to 512 (of 2 to 2048 on MNIST). What each task here has is said with it. So a claim that was not
seen here is not refuted for the paper's own experiments. Of the digits about 400 images are for testing, a quarter of a
percent each, so test errors rank the good configurations only roughly; scores by validation stand beside.

Words: **seen**, **partly** (in part of the figures, or too weakly to be sure), **not seen**, **not tested** (the data
do not allow it). The limits behind these words were the same for all tasks:

| claim | seen | partly |
| --- | --- | --- |
| unique signatures | 90 % of the runs identified, 95 % of the pairs apart | 50 % identified, p < 0.01 against chance |
| C̄ or L and the batch size or rate | mean rank correlation 0.9 and none of the other sign | median 0.5 |
| functional relations | the expected side explains more of both, at least half | of one of them, or less than half |
| stable positions | rank correlation 0.8 after 5 % of the training, for C̄ and L | for one of them, or 0.5 for both |
| early prediction | rank correlation 0.7 after 5 % | 0.4, p < 0.05 |
| the good lie together, similar ratio | permutation p < 0.05 | p < 0.2 |
| two bad ends | rank correlation 0.5 with p < 0.05 at both | at one |
| dynamic sampling travels | every policy more than 10 % of the way, p < 0.05, for C̄ and for L | some |
| small to large; -MS limits L | lower, p < 0.05 | lower |
| time and accuracy | less time, and no higher error with p < 0.05 | one of the two |

A trend is "partly" as well where it shows only without the configurations that ended near guessing: a seed's validation
error is above four fifths of a guesser's. A configuration with a diverged seed has no final position and is left out,
which every line says.
"""


def main() -> None:
    """Write the page, or compare it with what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", type=Path, default=Path("envs"))
    parser.add_argument("--compare", type=Path, default=Path("benchmarks/results/journeys"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        for file in make(arguments.envs, arguments.compare, arguments.docs):
            print(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = [file.relative_to(folder) for file in make(arguments.envs, arguments.compare, Path(folder))]
        differing = [file for file in made if not _same(Path(folder) / file, arguments.docs / file)]
    left = {file.relative_to(arguments.docs) for file in (arguments.docs / PICTURES).glob("*.png")} - set(made)
    for file in (*differing, *sorted(left)):
        print(f"{arguments.docs / file}: {'no longer made' if file in left else 'differs'}", file=sys.stderr)
    sys.exit(bool(differing or left))


def make(envs: Path, compare: Path, docs: Path) -> list[Path]:
    """Write the page and its pictures; return the files."""
    files, sections, verdicts = [], [], {}
    (docs / PICTURES).mkdir(parents=True, exist_ok=True)
    for folder in sorted(path for path in envs.iterdir() if holds_beacons(path)):
        library = BeaconLibrary.load(folder)
        runs, epochs = tables(compare / folder.name)
        claims = paper_claims(library, runs, epochs)
        verdicts[folder.name] = {claim.name: claim.verdict for claim in claims}
        pictures = draw(library, epochs, docs, folder.name)
        files += [file for _, file in pictures]
        sections.append(section(folder.name, library, runs, claims, pictures, docs))
    page = docs / PAGE
    write_whole(page, "\n".join([HEAD, summary(verdicts), *sections]).encode())
    return [page, *files]


def tables(folder: Path) -> tuple:
    """Return the tables of a comparison, None for those that are not there."""
    runs = load_runs(folder) if (folder / "runs.parquet").is_file() else None
    epochs = load_epochs_table(folder) if (folder / "epochs.parquet").is_file() else None
    return runs, epochs


def draw(library: BeaconLibrary, epochs, docs: Path, name: str) -> list[tuple[int, Path]]:
    """Write the pictures of a task that the page shows; return their numbers in the paper, and the files."""
    drawn = {number: figure for number, figure, _ in draw_paper_figures(library, epochs) if figure is not None}
    chosen = [number for number in SHOWN if number in drawn][:MOST_PICTURES]
    return [(number, save_figure(drawn[number], docs / PICTURES / f"{name}-{number}.png")) for number in chosen]


def summary(verdicts: dict[str, dict[str, str]]) -> str:
    """Return the table of verdicts by claim and task."""
    names = list(dict.fromkeys(name for own in verdicts.values() for name in own))
    lines = ["## At a glance", "", "| claim | " + " | ".join(f"[{task}](#{task})" for task in verdicts) + " |"]
    lines.append("| --- |" + " --- |" * len(verdicts))
    for name in names:
        cells = [own[name] for own in verdicts.values()]
        lines.append(f"| {name} | " + " | ".join("-" if cell == "not tested" else cell for cell in cells) + " |")
    return "\n".join([*lines, "", "`-` stands for not tested; the task's table says why.", ""])


def section(name: str, library: BeaconLibrary, runs, claims, pictures, docs: Path) -> str:
    """Return what the page says of one task."""
    tested = [claim for claim in claims if claim.verdict != "not tested"]
    lines = [f"## {name}", "", data_words(library, runs), "", claims_markdown(tested)]
    lines += [untested(claims), ""]
    for number, file in pictures:
        where = file.relative_to(docs).as_posix()
        lines += [f"![{name}: {SHOWN[number]}, as in the paper's figure {number}]({where})", ""]
    return "\n".join(lines)


def untested(claims) -> str:
    """Say which claims the data of a task do not allow, and why."""
    reasons: dict[str, list[str]] = {}
    for claim in claims:
        if claim.verdict == "not tested":
            reasons.setdefault(claim.sentence, []).append(claim.name)
    told = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    return f"Not tested: {told}." if told else "Every claim was tested."


def data_words(library: BeaconLibrary, runs) -> str:
    """Say what a task's figures rest on."""
    sizes = sorted({size for size, _ in library.configurations})
    rates = sorted({rate for _, rate in library.configurations})
    seeds = sorted({beacon.seed for beacon in library.beacons})
    epochs = max(len(beacon.rows["epoch"]) for beacon in library.beacons)
    examples = round(float(np.median([beacon.rows["examples"][0] for beacon in library.beacons])))
    steps = [beacon.final("steps") for beacon in library.beacons if beacon.finished]
    ended = sum(not beacon.finished for beacon in library.beacons)
    network = "a perceptron" if is_perceptron(library) else f"{library.task['model']['name']}, "
    network += "" if is_perceptron(library) else f"{library.task['model']['depth']} layers"
    text = (
        f"{len(library.beacons)} beacons: {len(library.configurations)} configurations (batch sizes "
        f"{', '.join(map(str, sizes))}; rates {', '.join(f'{rate:g}' for rate in rates)}), seeds "
        f"{', '.join(map(str, seeds))}, {epochs} epochs of {examples} examples ({min(steps):.0f} to {max(steps):.0f} "
        f"steps); network: {network}. {ended} of the runs diverged."
    )
    if runs is None:
        return text + " No comparison of policies is recorded."
    rows = runs.to_pylist()
    policies = ", ".join(f"`{policy}`" for policy in dict.fromkeys(row["policy"] for row in rows))
    fresh = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    ended = sum(row["stopped_because"] != "finished" for row in rows)
    return f"{text} Comparison: {len(rows)} runs of {policies} with the seeds {fresh}; {ended} of them ended early."


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    main()
