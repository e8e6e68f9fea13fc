"""Write docs/reproduction.md: the paper's claims beside what the shipped beacons and recorded comparisons say of them.

    python benchmarks/evidence/reproduction.py           # writes the page, its pictures, docs/claims/ENV.json
    python benchmarks/evidence/reproduction.py --check   # compares with what is there, fails where anything differs

Beacons are those of every task in ``envs/`` that has some; comparisons lie in ``benchmarks/results/journeys/ENV/`` as
``runs.parquet`` and ``epochs.parquet``, where ``autobatch compare`` wrote them. The same data give the same bytes
under the same versions of numpy, scipy and matplotlib.
"""

import math
import sys
import tempfile
from filecmp import cmpfiles
from pathlib import Path

import numpy as np

from autobatch import BeaconLibrary
from autobatch._artefacts import holds_beacons
from autobatch._files import write_whole
from autobatch.evidence import Claim, claims_json, load_epochs_table, load_runs, paper_claims
from autobatch.report import draw_paper_figures
from autobatch.report.paper import is_perceptron, save_paper_figure
from benchmarks.pages import heading, parser_of

PAGE, PICTURES, CLAIMS = "reproduction.md", "images/paper", "claims"
SHOWN = {1: "position and error", 7: "a perceptron", 5: "dynamic sampling", 6: "loss and error", 2: "over the epochs"}
MOST_PICTURES = 2

FIGURES = (
    ("runs that end nearest to their own configuration's seeds, share", "unique signatures", "accuracy"),
    ("C̄ and the batch size, rank correlation", "C̄ and the batch size", "mean"),
    ("L and the batch size", "L and the batch size", "mean"),
    ("C̄ and the rate", "C̄ and the rate", "mean"),
    ("L and the rate", "L and the rate", "mean"),
    ("C̄ after 5 % and at the end", "stable positions", "c_bar_at_5"),
    ("L after 5 % and at the end", "stable positions", "l_cum_at_5"),
    ("final score and that of the five nearest others after 5 %", "early prediction", "nearest_at_5"),
    ("the same by a Gaussian process", "early prediction", "gaussian_process_early"),
    ("final score and the score after 5 %", "early prediction", "early_score"),
    ("distance of the best five in the plane, over that of any five", "the good lie together", "distance_ratio"),
    ("p of that", "the good lie together", "p"),
    ("plain dynamic sampling: time over the best beacon's", "time and accuracy", "plain_time"),
    ("p of its test error against the best beacon's", "time and accuracy", "plain_p"),
    ("-MS: time", "time and accuracy", "ms_time"),
    ("-MS: p of the test error", "time and accuracy", "ms_p"),
)
"""Rows of the table of figures: in words, the claim, and its figure."""

HEAD = """\
# The paper's claims, and what was seen here

The claims of [Liao, Drummond, Reid and Carneiro (2018)](https://doi.org/10.1109/TPAMI.2018.2876413), beside figures
from our own recorded trainings. The page is made by `benchmarks/evidence/reproduction.py` from the beacons in `envs/`
and the comparisons in `benchmarks/results/journeys/`; nothing in it is written by hand.
[The paper's figures](how-to/paper-figures.md) says how to make it of your own beacons.

**All of it is smaller than in the paper**, which trains networks of 110 layers for 320 epochs on CIFAR-10 and CIFAR-100
and for 40 on SVHN, and of 8 layers for 40 epochs on MNIST, with five seeds, on GPUs. A claim that was not seen here is
not refuted for the paper's own experiments. Of the digits about 400 images are for testing, a quarter of a percent
each, so test errors rank the good configurations only roughly.
"""

LIMITS = """\
## When a claim counts as seen

The same limits for all tasks; **not seen** is what remains.

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

A trend is "partly" as well where it shows only without the configurations that ended near guessing (a seed's validation
error above four fifths of a guesser's). A configuration with a diverged seed has no final position and is left out.
"""


def main() -> None:
    """Write the page, or compare it with what is there."""
    parser = parser_of(__doc__)
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
        same, _, _ = cmpfiles(folder, arguments.docs, made, shallow=False)
    differing = [file for file in made if file not in same]
    there = [*(arguments.docs / PICTURES).glob("*.png"), *(arguments.docs / CLAIMS).glob("*.json")]
    left = {file.relative_to(arguments.docs) for file in there} - set(made)
    for file in (*differing, *sorted(left)):
        print(f"{arguments.docs / file}: {'no longer made' if file in left else 'differs'}", file=sys.stderr)
    sys.exit(bool(differing or left))


def make(envs: Path, compare: Path, docs: Path) -> list[Path]:
    """Write the page, its pictures and the claims of each task; return the files."""
    files, sections, claims = [], [], {}
    for folder in (docs / PICTURES, docs / CLAIMS):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path for path in envs.iterdir() if holds_beacons(path)):
        library = BeaconLibrary.load(folder)
        runs, epochs = tables(compare / folder.name)
        claims[folder.name] = paper_claims(library, runs, epochs)
        pictures = draw(library, epochs, docs, folder.name)
        details = docs / CLAIMS / f"{folder.name}.json"
        write_whole(details, claims_json(claims[folder.name]).encode())
        files += [details, *(file for _, file in pictures)]
        sections.append(section(folder.name, library, runs, pictures, docs))
    page = docs / PAGE
    parts = [HEAD, verdicts(claims), untested(claims), figures(claims), statements(claims), LIMITS, *sections]
    write_whole(page, "\n".join(parts).encode())
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
    return [(number, save_paper_figure(drawn[number], docs / PICTURES / f"{name}-{number}.png")) for number in chosen]


def verdicts(claims: dict[str, list[Claim]]) -> str:
    """Return the table of verdicts by claim and task."""
    lines = ["## At a glance", "", heading(" | ".join(["claim", *(f"[{task}](#{task})" for task in claims)]))]
    for own in zip(*claims.values(), strict=True):
        cells = ["-" if claim.verdict == "not tested" else claim.verdict for claim in own]
        lines.append(f"| {own[0].name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def untested(claims: dict[str, list[Claim]]) -> str:
    """Say which claims the data of a task do not allow, and why."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for task, own in claims.items():
        for claim in own:
            if claim.verdict == "not tested":
                reasons.setdefault(claim.sentence, {}).setdefault(claim.name, []).append(task)
    lines = ["`-` stands for not tested:", ""]
    for reason, names in reasons.items():
        tasks = dict.fromkeys(task for each in names.values() for task in each)
        lines.append(f"- {', '.join(names)} ({reason}): {', '.join(tasks)}.")
    return "\n".join([*lines, ""]) if reasons else ""


def figures(claims: dict[str, list[Claim]]) -> str:
    """Return the table of the figures that most of the verdicts rest on."""
    lines = ["## Figures", "", heading(" | ".join(["figure", *claims]))]
    found = {task: {claim.name: claim.figures for claim in own} for task, own in claims.items()}
    for words, claim, key in FIGURES:
        values = [own[claim].get(key, math.nan) for own in found.values()]
        lines.append(f"| {words} | {' | '.join('-' if math.isnan(one) else f'{one:.2g}' for one in values)} |")
    told = ", ".join(f"[{task}]({CLAIMS}/{task}.json)" for task in claims)
    told = f"Time is training steps at the prices of the cost table. Every claim with all its figures: {told}."
    return "\n".join([*lines, "", told, ""])


def statements(claims: dict[str, list[Claim]]) -> str:
    """Return the table of what the paper claims, and where."""
    lines = ["## The claims", "", heading("claim | what the paper says, and where")]
    for claim in next(iter(claims.values()), []):
        lines.append(f"| {claim.name} | {claim.statement} ({claim.section}) |")
    return "\n".join([*lines, ""])


def section(name: str, library: BeaconLibrary, runs, pictures, docs: Path) -> str:
    """Return what the page says of one task."""
    lines = [f"## {name}", "", data_words(library, runs), ""]
    for number, file in pictures:
        where = file.relative_to(docs).as_posix()
        lines += [f"![{name}: {SHOWN[number]}, as in the paper's figure {number}]({where})", ""]
    return "\n".join(lines)


def data_words(library: BeaconLibrary, runs) -> str:
    """Say what a task's figures rest on."""
    sizes = sorted({size for size, _ in library.configurations})
    rates = sorted({rate for _, rate in library.configurations})
    seeds = sorted({beacon.seed for beacon in library.beacons})
    epochs = max(len(beacon.rows["epoch"]) for beacon in library.beacons)
    examples = round(float(np.median([beacon.rows["examples"][0] for beacon in library.beacons])))
    ended = sum(not beacon.finished for beacon in library.beacons)
    network = "a perceptron" if is_perceptron(library) else f"{library.task['model']['name']}, "
    network += "" if is_perceptron(library) else f"{library.task['model']['depth']} layers"
    text = (
        f"{len(library.beacons)} beacons: {len(library.configurations)} configurations (batch sizes "
        f"{', '.join(map(str, sizes))}; rates {', '.join(f'{rate:g}' for rate in rates)}), seeds "
        f"{', '.join(map(str, seeds))}, {epochs} epochs of {examples} examples; {network}; {ended} of "
        f"the runs diverged."
    )
    if runs is None:
        return text
    rows = runs.to_pylist()
    policies = ", ".join(f"`{policy}`" for policy in dict.fromkeys(row["policy"] for row in rows))
    fresh = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    ended = sum(row["stopped_because"] != "finished" for row in rows)
    return f"{text} Comparison: {len(rows)} runs of {policies} with the seeds {fresh}; {ended} of them ended early."


if __name__ == "__main__":
    main()
