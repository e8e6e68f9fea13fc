"""A run, or several, as one page that needs nothing but a browser: words, tables, the plane and the curves."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from autobatch._artefacts import told_path
from autobatch._errors import ConfigError
from autobatch._files import naming_output, write_whole
from autobatch.policies._wording import count
from autobatch.report._record import RunRecord
from autobatch.report._story import FORKS_TITLE
from autobatch.report._summary import run_facts
from autobatch.report._words import epoch_words, place_words, seconds_words
from autobatch.report.page._curves import curves_figure
from autobatch.report.page._markup import Html, data_block, joined, packed, tag
from autobatch.report.page._moments import moments
from autobatch.report.page._plane import plane_figure
from autobatch.report.page._section import ReportedRun, Section, sections
from autobatch.report.page._tables import (
    FIGURES,
    MANY_DECISIONS,
    decisions_table,
    figures_table,
    forks_table,
    own_figure,
    scouts_table,
    swatch,
)

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""Content security policy of the page: it may fetch nothing at all."""

_JUDGEMENTS = {"gain": "Gain", "no-gain": "No gain", "open": "Not finished", "none": "No beacons"}


def save_html(path: Path, records: Sequence[RunRecord]) -> None:
    """Write a page about some runs, at once or not at all.

    Args:
        path: the file; it ends in ``.html``.
        records: the runs, at least one; those of the same task are compared with one another.

    Raises:
        ConfigError: the file's ending is another.
        OutputError: the file cannot be written.
    """
    check_page(path)
    page = html_page(records)
    with naming_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode(errors="replace"))


def check_page(path: Path) -> None:
    """Check that a page can be written under a name, before any work is done for it.

    Args:
        path: the file to be written.

    Raises:
        ConfigError: the file's ending is not ``.html``.
    """
    if path.suffix.lower() != ".html":
        raise ConfigError(f"{path}: expected a file name that ends in .html")


def html_page(records: Sequence[RunRecord]) -> str:
    """Return a page about some runs; the same runs give the same page.

    Args:
        records: the runs, at least one.

    Returns:
        HTML with everything inside, about 1.8 MB of it plotly.js.
    """
    parts = sections(records)
    title = records[0].title if len(records) == 1 else f"{len(records)} runs on {' and '.join(_tasks(parts))}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} - autobatch"),
        tag("style", Html(_resource("_page.css"))),
    )
    theme = tag("button", "Dark theme", type="button", id="theme", aria_pressed="false", hidden=True)
    header = tag("header", tag("h1", title), theme)
    several = len(parts) > 1
    body = tag(
        "body",
        tag("main", header, *(_section(part, several=several) for part in parts)),
        tag("p", "This browser is too old to draw the plots of this page.", id="too-old", class_="note", hidden=True),
        tag("noscript", tag("p", "Without JavaScript this page has words and tables, but no plots.", class_="note")),
        _plotly(),
        tag("script", Html(_resource("_page.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _tasks(parts: Sequence[Section]) -> list[str]:
    return list(dict.fromkeys(part.task for part in parts))


def _section(section: Section, *, several: bool) -> Html:
    plane, curves = plane_figure(section), curves_figure(section)
    return tag(
        "section",
        tag("h2", section.task) if several else "",
        _overview(section),
        _legend(section, has_plane=plane is not None, has_curves=curves is not None),
        _plane(section, plane),
        _curves(section, curves),
        _tried(section),
        tag("h3", "Figures"),
        figures_table(section),
        _facts(section.runs[0]) if len(section.runs) == 1 else "",
        _decisions(section),
        class_="task",
        data_section=section.number,
    )


def _tried(section: Section) -> Html:
    """Return what scouts and forks of the runs came to; nothing where no run has any."""
    scouts = [(run, scouts_table(run)) for run in section.runs if run.record.scouts]
    forks = [(run, forks_table(run)) for run in section.runs if run.record.forks]
    return joined(
        _by_run(section, "Scouts: short trainings before the run, the best of which becomes it", scouts),
        _by_run(section, FORKS_TITLE, forks),
    )


def _by_run(section: Section, heading: str, told: Sequence[tuple[ReportedRun, Html]]) -> Html:
    """Return a table of each run under one heading, folded away where there are several runs."""
    if not told:
        return Html("")
    if len(section.runs) == 1:
        return joined(tag("h3", heading), told[0][1])
    each = (tag("details", tag("summary", swatch(run), run.label), own) for run, own in told)
    return joined(tag("h3", heading), *each)


def _overview(section: Section) -> Html:
    words = []
    for run in section.runs:
        kind, sentence = run.verdict()
        told = sentence.removeprefix(f"{_JUDGEMENTS[kind]}: ").removeprefix(f"{_JUDGEMENTS[kind]}. ")
        told = told[0].upper() + told[1:]
        name = joined(swatch(run), tag("strong", run.label), " ") if len(section.runs) > 1 else ""
        words.append(tag("p", name, tag("span", _JUDGEMENTS[kind], class_=f"judgement {kind}"), " ", told))
    tiles = _tiles(section.runs[0]) if len(section.runs) == 1 else ""
    return tag("div", tag("div", *words, class_="verdicts"), tiles)


def _tiles(run: ReportedRun) -> Html:
    comparison = run.comparison
    tiles = []
    for head, name, words in FIGURES:
        if name == "examples":  # the same for everybody
            continue
        beside = "" if comparison is None else f"best fixed beacon {comparison.best_words(name, words)}"
        tiles.append(_tile(head, words(own_figure(run, name)), beside))
    if comparison is not None and comparison.seconds is not None:
        beside = f"best fixed beacon {seconds_words(comparison.best_seconds)}"
        tiles.append(_tile("Time by one cost table", seconds_words(comparison.seconds), beside))
    return tag("div", *tiles, class_="tiles")


def _tile(head: str, own: str, beside: str) -> Html:
    return tag("div", tag("span", head), tag("strong", own), tag("small", beside) if beside else "", class_="tile")


def _facts(run: ReportedRun) -> Html:
    record, summary = run.record, run.record.summary
    facts = run_facts(record)
    if summary is not None:
        facts.append(("Device", summary.device))
    facts.append(("Policy", record.does or record.config.policy.kind))
    facts.append(("Files", told_path(record.path)))
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", words)) for name, words in facts), class_="facts")


def _legend(section: Section, *, has_plane: bool, has_curves: bool) -> Html:
    if not has_plane and not has_curves:
        return Html("")
    chips = [_chip(run.group, run.label, swatch(run)) for run in section.runs]
    has_field = has_plane and section.landscape is not None
    if has_field or any(run.comparison is not None for run in section.runs):
        chips.append(_chip("best", "best fixed beacon", _sign("star")))
    if has_field:
        chips += [
            _chip("beacons", "beacons", _sign("beacon")),
            _chip("landscape", "landscape", _sign("field")),
            _chip("region", "optimum region", _sign("outline")),
            _chip("ways", "ways of the beacons", _sign("thin"), pressed=False),
        ]
    return tag("div", *chips, class_="legend", role="group", aria_label="Show or hide in the plots")


def _sign(look: str) -> Html:
    return tag("span", class_=f"sign {look}", aria_hidden="true")


def _chip(group: str, name: str, sign: Html, *, pressed: bool = True) -> Html:
    state = "true" if pressed else "false"
    return tag("button", sign, name, type="button", class_="chip", aria_pressed=state, data_group=group)


def _plane(section: Section, figure: dict[str, Any] | None) -> Html:
    heading = tag("h3", "Journey through the plane", id=f"plane-heading-{section.number}")
    if figure is None:
        return joined(heading, tag("p", "Nothing was measured, and the task has no beacons: there is no plane."))
    hint = tag("p", _plane_words(section), class_="note")
    panel = tag(
        "aside",
        tag("div", *_stepper(section), class_="stepper"),
        tag("div", class_="moment", aria_live="polite"),
        class_="side",
        aria_label="One moment of a run",
    )
    points = {run.group: moments(section, run) for run in section.runs}
    plot = tag("div", class_="plot plane", role="img", aria_label=_plane_alternative(section))
    data = data_block(f"plane-{section.number}", {"figure": figure, "runs": points})
    both = tag("div", tag("figure", plot, hint), panel, class_="split")
    return joined(heading, both, data)


def _stepper(section: Section) -> Iterator[Html]:
    options = [tag("option", run.label, value=run.group) for run in section.runs]
    yield tag("select", *options, aria_label="Run", class_="which", hidden=len(options) == 1)
    yield tag("button", "‹", type="button", class_="back", aria_label="Epoch before")
    yield tag("input", type="range", class_="when", min=0, max=0, value=0, aria_label="Epoch")
    yield tag("button", "›", type="button", class_="on", aria_label="Next epoch")


def _plane_words(section: Section) -> str:
    words = []
    if section.landscape is not None:
        words.append("The field is the final score that the beacons promise for ending at a position.")
    else:
        words.append("The task has no beacons, so the plane is empty but for the journey.")
    without = [run.label for run in section.runs if not run.measured]
    if without:
        words.append(f"Without a measurement, and so without a journey: {'; '.join(without)}.")
    if len(without) < len(section.runs):
        words.append("A mark an epoch, the larger the larger its batch size; point at one for the decision made there.")
    return " ".join(words)


def _plane_alternative(section: Section) -> str:
    words = []
    if section.library is not None and section.landscape is not None:
        words.append(f"Plane of C̄ and L with the ends of {len(section.library.beacons)} beacons.")
    for run in section.runs:
        if run.measured:
            rows = [row for row in run.record.epochs if row.c_bar > 0 and row.l_cum > 0]
            first, last = rows[0], rows[-1]
            words.append(
                f"{run.label} goes from {place_words(first.c_bar, first.l_cum)} after epoch {epoch_words(first.epoch)} "
                f"to {place_words(last.c_bar, last.l_cum)} after {epoch_words(last.epoch)}."
            )
    return " ".join(words)


def _curves(section: Section, figure: dict[str, Any] | None) -> Html:
    heading = tag("h3", "Curves")
    if figure is None:
        return joined(heading, tag("p", "No epoch is finished yet."))
    name = f"over-{section.number}"
    choices = [
        tag("label", tag("input", type="radio", name=name, value=value, checked=value == "examples"), words)
        for value, words in (("examples", "over examples"), ("seconds", "over seconds"))
    ]
    switch = tag("div", *choices, class_="switch", role="radiogroup", aria_label="What the curves are drawn over")
    words = "Validation, training loss, batch size, learning rate, C̄ and L of " + "; ".join(
        run.label for run in section.runs
    )
    plot = tag("div", class_="plot curves", role="img", aria_label=words)
    note = tag("p", "Grey: the best fixed beacon, a line a seed, its seconds without measuring.", class_="note")
    grey = any(run.comparison is not None for run in section.runs)
    data = data_block(f"curves-{section.number}", {"figure": figure})
    return joined(tag("div", heading, switch, class_="row"), tag("figure", plot, note if grey else ""), data)


def _decisions(section: Section) -> Html:
    every = sum(len(run.record.decisions) for run in section.runs)
    told = (decision for run in section.runs for decision in run.record.decisions[1:])
    changes = sum(decision.turn or decision.stop for decision in told)
    words = f"changes and ends only ({changes} of {count(every, 'decision')})"
    only = tag("label", tag("input", type="checkbox", class_="changes-only", checked=True), words)
    heading = tag("div", tag("h3", "Decisions"), tag("div", only, class_="switch"), class_="row")
    return tag("div", heading, *(_decisions_of(section, run) for run in section.runs), class_="told")


def _decisions_of(section: Section, run: ReportedRun) -> Html:
    told = tag("p", "Nothing was decided yet.")
    if run.record.decisions:
        told = tag("div", decisions_table(section, run), class_="scrolls")
    if len(run.record.decisions) > MANY_DECISIONS:
        rest = "Those that kept everything are told beside the plane, epoch by epoch."
        told = joined(told, tag("p", rest, class_="note"))
    if len(section.runs) == 1:
        return told
    return tag("details", tag("summary", swatch(run), run.label), _facts(run), told, class_="run")


def _resource(name: str) -> str:
    return files("autobatch.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> Html:
    from plotly.offline import get_plotlyjs

    return packed("plotly", get_plotlyjs())
