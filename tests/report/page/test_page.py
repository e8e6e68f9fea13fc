"""Pages about runs, without a browser: what is in them, that nothing breaks out, and that bytes repeat."""

import base64
import json
import math
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import autobatch
from autobatch._errors import ConfigError, OutputError
from autobatch.report import check_page, html_page, save_html
from autobatch.report.page._markup import packed
from autobatch.training import load_task
from tests.beacons.synthetic import make_library
from tests.report.reported import EVIL, broken, make_decisions, make_record, make_rows, make_summary, unmeasured


@pytest.fixture(scope="module")
def library():
    return make_library()


@pytest.fixture(autouse=True)
def _light(request, monkeypatch):
    """Leave plotly.js out, which would only have to be read over; where it matters a test is named after the whole."""
    if "whole_or" not in request.node.name:
        monkeypatch.setattr("autobatch.report.page._page._plotly", lambda: packed("plotly", "null"))


class Page(HTMLParser):
    """A page as a browser takes it apart: elements, visible text, and the data of the plots."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data: dict[str, dict] = {}
        self.scripts = 0
        self._open: list[str] = []
        self._name: str | None = None
        self.feed(content)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in {"meta", "input", "br"}:
            self._open.append(tag)
        if tag == "script":
            self.scripts += 1
            self._name = attributes.get("id")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            if self._name and self._name != "plotly":
                assert not set(data) & set("<>&")
                text = zlib.decompress(base64.b85decode(data.translate(str.maketrans(".,:", "<>&")))).decode()
                self.data[self._name] = json.loads(text, parse_constant=pytest.fail)
        elif self._open and self._open[-1] != "style":
            self.text += data

    def traces(self, name: str) -> list[dict]:
        return self.data[name]["figure"]["data"]

    def groups(self, name: str) -> set[str]:
        return {trace["legendgroup"] for trace in self.traces(name)}


def test_a_finished_run_is_told_whole(library):
    page = Page(html_page([make_record(library)]))
    for phrase in (
        "digits-resnet8, beacon-follow, seed 0",
        "1.23 %",  # test error
        "best fixed beacon",
        "9.0 s",
        "7.0 % of the time",
        "16 → 64, base rate 0.1",
        "because of 256",
        "C̄ 100, L 10.0",
        "4 candidates",
        "the landscape knows nothing of 1",
        "changes and ends only (3 of 6 decisions)",
    ):
        assert phrase in page.text, phrase
    assert page.groups("plane-0") == {"landscape", "region", "ways", "beacons", "best", "run-0"}
    journey = next(trace for trace in page.traces("plane-0") if trace.get("meta") == "journey")
    assert journey["customdata"] == [1, 2, 3, 4, 5, 6]
    assert journey["marker"]["size"] == sorted(journey["marker"]["size"])
    assert [moment["epoch"] for moment in page.data["plane-0"]["runs"]["run-0"]] == list(range(7))
    panels = page.data["curves-0"]["figure"]["layout"]["meta"]["panels"]
    assert panels == 6
    for trace in page.traces("curves-0"):
        assert len(trace["meta"]["examples"]) == len(trace["meta"]["seconds"]) == len(trace["y"])


def test_a_page_is_accessible_and_fetches_nothing(library):
    content = html_page([make_record(library)])
    page = Page(content)
    assert ("html", {"lang": "en"}) in page.elements
    assert page.scripts == 4  # plotly.js, the page's own, and the data of two plots
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert "href" not in attributes
        if tag == "th":
            assert attributes["scope"] in {"col", "row"}
        if "plot" in str(attributes.get("class")).split():
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    policy = dict(page.elements)["meta"]
    assert any("default-src 'none'" in str(attributes.get("content")) for _, attributes in page.elements), policy
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_text_of_run_files_stays_text(library):
    rows = make_rows(library)
    told = [replace(decision, limit=EVIL) for decision in make_decisions(rows, EVIL.replace("{", "").replace("}", ""))]
    record = make_record(library, decisions=told, summary=make_summary(device=EVIL, stopped_because=EVIL))
    policy = record.config.policy.model_copy(update={"name": EVIL, "description": EVIL})
    record = replace(record, config=record.config.model_copy(update={"policy": policy}))
    content = html_page([record])
    page = Page(content)
    assert page.scripts == 4
    assert "<b>bold" not in content
    assert page.text.count("<b>bold</b>") > 10
    shown = json.dumps(page.data, ensure_ascii=False)
    assert "<b>bold" not in shown  # plotly reads tags in any text
    assert "&lt;b&gt;bold" in shown


def test_a_long_run_lists_its_changes(library):
    record = make_record(library)
    kept = replace(record.decisions[1], changed=False, reason="as before")
    decisions = [record.decisions[0], *(replace(kept, epoch=epoch) for epoch in range(1, 300)), record.decisions[-1]]
    page = Page(html_page([replace(record, decisions=decisions)]))
    assert page.text.count("as before") == 0
    assert "because of 256" in page.text
    assert "told beside the plane" in page.text
    assert len([1 for tag, attributes in page.elements if tag == "tr" and attributes.get("class") == "kept"]) == 0


def test_the_same_runs_give_the_same_bytes(library):
    records = [make_record(library), make_record(library, seed=1)]
    assert html_page(records) == html_page(records)


def test_runs_of_a_task_share_a_plane_and_other_tasks_have_their_own(library):
    other = make_record(library, seed=2, library=None)
    other = replace(other, config=other.config.model_copy(update={"task": load_task("digits-mlp")}))
    page = Page(html_page([make_record(library), make_record(library, seed=1), other]))
    assert "3 runs on digits-resnet8 and digits-mlp" in page.text
    assert {"run-0", "run-1"} < page.groups("plane-0")
    assert page.groups("plane-1") == {"run-0"}
    colours = {
        trace["legendgroup"]: trace["line"]["color"]
        for trace in page.traces("plane-0")
        if trace.get("meta") == "journey"
    }
    assert len(set(colours.values())) == 2


def test_runs_that_cannot_be_told_apart_are_named_by_their_directories(library):
    twins = [make_record(library), replace(make_record(library), path=make_record(library, seed=1).path)]
    page = Page(html_page(twins))
    assert "beacon-follow, seed 0 (runs/follow-1)" in page.text


@pytest.mark.parametrize("with_library", [True, False])
def test_a_run_in_the_middle_says_so(library, with_library):
    record = make_record(library, summary=None, library=library if with_library else None)
    half = replace(record, epochs=record.epochs[:2], decisions=record.decisions[:3])
    page = Page(html_page([half]))
    assert "Not finished" in page.text
    # Without beacons the policy steers, and plans to end earlier.
    assert f"2 of {40 if with_library else 28} epochs so far" in page.text
    assert ("landscape" in page.groups("plane-0")) == with_library


def test_a_run_that_has_only_begun_has_a_page(library):
    record = make_record(library, summary=None, library=None, epochs=[], decisions=[])
    page = Page(html_page([record]))
    for phrase in ("0 of 28 epochs", "there is no plane", "No epoch is finished yet", "Nothing was decided yet"):
        assert phrase in page.text
    assert page.data == {}


def test_a_run_that_was_not_measured_has_curves_and_the_beacons(library):
    summary = make_summary(samples=0, measuring_seconds=0.0, measuring_share=0.0, c_bar=None, l_cum=None)
    record = make_record(library, summary=summary)
    page = Page(html_page([replace(record, epochs=unmeasured(record.epochs))]))
    assert "run-0" not in page.groups("plane-0")
    assert "nothing was measured" in page.text
    assert page.data["curves-0"]["figure"]["layout"]["meta"]["panels"] == 4
    alone = replace(record, epochs=unmeasured(record.epochs), library=None)
    assert "plane-0" not in Page(html_page([alone])).data


def test_what_diverged_is_a_gap(library):
    nothing = dict.fromkeys(("test_error", "validation_error", "validation_loss", "c_bar", "l_cum"))
    record = make_record(library, summary=make_summary(stopped_because="diverged: nan", **nothing))
    content = html_page([replace(record, epochs=broken(record.epochs))])
    page = Page(content)
    assert "diverged: nan" in page.text
    assert not re.search(r"\bnan\b|\binf\b", page.text.replace("diverged: nan", ""))
    loss = [trace for trace in page.traces("curves-0") if trace["legendgroup"] == "run-0" and None in trace["y"]]
    assert loss
    assert all(math.isfinite(value) for trace in loss for value in trace["y"] if value is not None)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, library, monkeypatch):
    target = tmp_path / "sub" / "page.html"
    save_html(target, [make_record(library)])
    whole = target.read_bytes()
    assert whole.startswith(b"<!DOCTYPE html>")
    assert 1_000_000 < len(whole) <= 2_000_000
    monkeypatch.setattr("os.replace", _full)
    with pytest.raises(OutputError, match=r"page\.html: cannot be written"):
        save_html(target, [make_record(library, seed=1)])
    assert target.read_bytes() == whole
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]


def _full(*_):
    raise OSError(28, "No space left on device")


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.html"):
        check_page(tmp_path / "page.pdf")


def test_plotly_is_imported_only_for_a_page():
    for path in Path(autobatch.__file__).parent.rglob("*.py"):
        assert not re.search(r"^(import|from) plotly", path.read_text(encoding="utf-8"), re.MULTILINE), path
