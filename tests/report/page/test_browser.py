"""A page in a real browser: no network, no errors, and everything that can be pointed at or pressed."""

import re
import shutil
from dataclasses import replace

import pytest

from autobatch.report import save_html
from tests.beacons.synthetic import make_library
from tests.report.reported import EVIL, broken, make_decisions, make_record, make_summary

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
_BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(_BROWSER is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with a finished run of hostile texts, one that diverged and one of another task without beacons."""
    library = make_library()
    first = make_record(library)
    hostile = replace(first, decisions=make_decisions(first.epochs, "why " + EVIL))
    diverged = make_record(library, seed=1, summary=make_summary(stopped_because="diverged: nan", validation_loss=None))
    elsewhere = [replace(row, c_bar=2 * row.c_bar) for row in broken(diverged.epochs)]
    diverged = replace(diverged, epochs=elsewhere, decisions=diverged.decisions[:4])
    other = make_record(library, seed=2, library=None, summary=None)
    task = other.config.task.model_copy(update={"epochs": 7})
    other = replace(other, config=other.config.model_copy(update={"task": task}))
    path = tmp_path_factory.mktemp("page") / "report.html"
    save_html(path, [hostile, diverged, other])
    return path


@pytest.fixture(scope="module")
def opened(browser, report):
    """Open the page in a window of some size; complaints of the browser fail the last test."""
    complaints = []

    def open_page(width: int, height: int = 900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, offline=True, **options)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url[:4] == "http" else None)
        page.goto(report.as_uri())
        page.wait_for_selector(".plane .scatterlayer")
        return page

    yield open_page
    assert complaints == []


@pytest.fixture(scope="module")
def desktop(opened):
    return opened(1400)


def _point(page, epoch: int) -> tuple[float, float]:
    """Where the first run's mark of an epoch is in the window."""
    plane = page.locator(".plane").first
    plane.scroll_into_view_if_needed()
    return tuple(
        plane.evaluate(
            """(plot, epoch) => {
                const trace = plot._fullData.find((own) => own.meta === "journey");
                const index = trace.customdata.indexOf(epoch);
                const box = plot.getBoundingClientRect();
                const [across, up] = [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
                return [
                    box.left + across._offset + across.d2p(trace.x[index]),
                    box.top + up._offset + up.d2p(trace.y[index]),
                ];
            }""",
            epoch,
        )
    )


def test_pointing_at_the_journey_tells_the_decision(desktop):
    assert desktop.title().startswith("3 runs on digits-resnet8")  # no script of the run files has run
    desktop.mouse.move(*_point(desktop, 2))
    moment = desktop.locator(".moment").first
    sync_api.expect(moment).to_contain_text("after epoch 2 of 40")
    text = moment.inner_text()
    for phrase in (
        "16 → 64, base rate 0.1",
        f"why {EVIL[:20]}",
        "validation",
        "C̄ 100, L 10.0",
        "s16-lr0.1",
        "4 candidates",
    ):
        assert phrase.lower() in text.lower(), phrase
    sync_api.expect(desktop.locator(".plane .hoverlayer").first).to_contain_text("epoch 2")
    desktop.locator(".on").first.press("Enter")
    sync_api.expect(moment).to_contain_text("after epoch 3 of 40")
    desktop.locator(".when").first.press("Home")
    sync_api.expect(moment).to_contain_text("start")


def test_the_legend_hides_and_shows(desktop):
    chip = desktop.locator('.chip[data-group="run-0"]').first
    shown = """(plot) => plot._fullData.filter((own) => own.legendgroup === "run-0").map((own) => own.visible)"""
    both = [desktop.locator(".plane").first, desktop.locator(".curves").first]
    assert all(all(plot.evaluate(shown)) for plot in both)
    chip.press("Space")
    assert chip.get_attribute("aria-pressed") == "false"
    assert not any(any(plot.evaluate(shown)) for plot in both)
    chip.click()
    assert all(all(plot.evaluate(shown)) for plot in both)


def test_curves_over_examples_or_seconds_share_their_axis(desktop):
    curves = desktop.locator(".curves").first
    ends = "(plot) => [plot._fullLayout.xaxis.range[1], plot._fullLayout.xaxis6.range[1]]"
    over_examples = curves.evaluate(ends)
    assert over_examples[0] == over_examples[1] >= 6144
    desktop.get_by_label("over seconds").first.check()
    over_seconds = curves.evaluate(ends)
    assert over_seconds[0] == over_seconds[1] < over_examples[1]
    last = """(plot) => plot._fullData.find((own) => own.legendgroup === "run-0").x.at(-1)"""
    assert curves.evaluate(last) == 9.0


def test_only_changes_or_every_decision(desktop):
    table = desktop.locator("table.decisions").first
    desktop.locator("details.run:has(table.decisions) > summary").first.click()
    assert table.locator("tbody > tr:visible").count() == 4
    desktop.locator(".changes-only").first.uncheck()
    assert table.locator("tbody > tr:visible").count() == 6


def test_a_phone_shows_everything_without_scrolling_sideways(opened):
    page = opened(390, 844, has_touch=True)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    across = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, client = page.evaluate(across)
    assert scroll <= client == 390
    page.touchscreen.tap(*_point(page, 2))
    sync_api.expect(page.locator(".moment").first).to_contain_text("after epoch 2 of 40")


def test_the_theme_changes_and_printing_is_light_and_fits_the_paper(opened, tmp_path):
    page = opened(1400, color_scheme="dark")
    plane, button, ink = page.locator(".plane").first, page.locator("#theme"), "(plot) => plot._fullLayout.font.color"
    dark = plane.evaluate(ink)
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert plane.evaluate(ink) != dark
    button.click()
    assert plane.evaluate(ink) == dark
    page.evaluate(
        """addEventListener("beforeprint", () => {
            window.printed = [...document.querySelectorAll(".plot")].map((plot) => plot._fullLayout.width);
            window.theme = document.documentElement.dataset.theme;
        })"""
    )
    pdf = page.pdf(path=tmp_path / "page.pdf", format="A4", prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 4
    assert set(page.evaluate("window.printed")) == {700}  # of 703 pixels between the margins
    assert page.evaluate("window.theme") == "light"
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.set_viewport_size({"width": 703, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    scroll, client = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert scroll <= client


def test_narrow_and_wide_again_leaves_nothing_behind(opened):
    page = opened(1280)
    texts = """() => [...document.querySelectorAll(".plane")].map((plot) =>
        [...plot.querySelectorAll("svg text")].map((text) => {
            const box = text.getBoundingClientRect(), frame = plot.getBoundingClientRect();
            return [text.textContent, Math.round(box.left - frame.left), Math.round(box.top - frame.top)];
        }))"""
    before = page.evaluate(texts)
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"innerWidth === {width} && [...document.querySelectorAll('.plot')].every("
                               "(plot) => Math.abs(plot._fullLayout.width - plot.clientWidth) < 1)")  # fmt: skip
    assert page.evaluate(texts) == before
    page.mouse.move(*_point(page, 2))
    sync_api.expect(page.locator(".moment").first).to_contain_text("after epoch 2 of 40")
