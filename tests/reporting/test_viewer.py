"""The report in a real browser: opened from a file, without a network, by headless Chromium."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.report_results import Tree, write_results
from scipy.spatial.transform import Rotation

from pmni.config.reporting import ReportedRun, ReportSettings
from pmni.reporting.page import build_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("needs Chromium and chromedriver", allow_module_level=True)

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=127.0.0.1:9",  # nobody listens there
    "--window-size=1300,900",
)
# Part of a canvas that is painted, and how many colours it has.
PAINTED = """
const canvas = arguments[0];
const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
let painted = 0;
const colours = new Set();
for (let i = 0; i < data.length; i += 4) {
  if (data[i + 3] <= 200) continue;
  painted++;
  colours.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
}
return [painted / (data.length / 4), colours.size, canvas.toDataURL().length];
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    tree = write_results(tmp_path_factory.mktemp("run") / "results")
    # one experiment of one object has failed
    (tree.results / "calibrated/egg/train/history.csv").unlink()
    return tree


@pytest.fixture(scope="module")
def page(tree: Tree) -> Path:
    settings = ReportSettings(faces=3000, faces_early=1000, tile=64)
    path = tree.results / "report/index.html"
    path.parent.mkdir()
    text = build_page(tree.results, ReportedRun.parse(tree.config, "test"), settings)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page, freshly opened; whatever a test does, nothing may be complained of or fetched."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())
    yield browser
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert complaints == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in requests  # the log does see requests
    inside = (page.as_uri(), "data:", "blob:")
    assert [url[:200] for url in requests if not url.startswith(inside)] == []


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited in vain for {what}")


def find(browser: Any, selector: str) -> Any:
    return until(lambda: browser.find_elements("css selector", selector), selector)[0]


def scroll_to(browser: Any, element: Any) -> None:
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element
    )


def drawn(browser: Any, selector: str) -> Any:
    """A canvas that has been drawn."""
    host = find(browser, selector)
    scroll_to(browser, host)
    return find(browser, f"{selector} canvas[data-drawn]:not([data-drawn=empty])")


def painted(browser: Any, canvas: Any) -> tuple[float, int, int]:
    return tuple(browser.execute_script(PAINTED, canvas))


def changed(browser: Any, canvas: Any, act: Callable[[], None]) -> None:
    """What `act` does is seen in the canvas."""
    before = browser.execute_script("return arguments[0].toDataURL()", canvas)
    act()
    until(
        lambda: browser.execute_script("return arguments[0].toDataURL()", canvas) != before,
        "a change of the image",
    )


def follow(browser: Any, target: str) -> None:
    """Click the link in the summary."""
    link = find(browser, f"#summary a[href='{target}']")
    scroll_to(browser, link)
    link.click()


VIEWER = "[data-scene=part-pebble].viewer"


def test_the_viewer_draws_when_it_is_seen_and_not_before(opened: Any) -> None:
    assert not opened.find_elements("css selector", ".viewer canvas")
    canvas = drawn(opened, VIEWER)
    part, colours, _ = painted(opened, canvas)
    assert part > 0.04
    assert colours > 500
    assert canvas.get_attribute("data-drawn") == "free/300"


def test_the_viewer_changes_surface_colours_and_cameras(opened: Any) -> None:
    canvas = drawn(opened, VIEWER)
    for number in (1, 2, 0):
        button = opened.find_elements("css selector", f"{VIEWER} .segmented button")[number]
        changed(opened, canvas, button.click)
    for chip in opened.find_elements("css selector", f"{VIEWER} .chip"):
        changed(opened, canvas, chip.click)
        changed(opened, canvas, chip.click)
    choose = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
    surface, beside, *_ = opened.find_elements("css selector", f"{VIEWER} select")
    changed(opened, canvas, lambda: opened.execute_script(choose, surface, "free/100"))
    opened.execute_script(choose, beside, "truth")
    second = find(opened, f"{VIEWER} canvas[data-drawn=truth]")
    part, colours, _ = painted(opened, second)
    assert part > 0.04
    assert colours > 200


def test_dragging_turns_the_surface(opened: Any) -> None:
    canvas = drawn(opened, VIEWER)
    drag = webdriver.ActionChains(opened).click_and_hold(canvas).move_by_offset(80, 20).release()
    changed(opened, canvas, drag.perform)


def test_wheel_zooms_only_a_view_that_was_clicked(opened: Any) -> None:
    canvas = drawn(opened, VIEWER)
    wheel = """
        const event = new WheelEvent("wheel", {deltaY: -100, cancelable: true});
        return arguments[0].dispatchEvent(event);
    """
    assert opened.execute_script(wheel, canvas)  # not prevented: the page scrolls
    canvas.click()
    changed(opened, canvas, lambda: opened.execute_script(wheel, canvas))


def test_double_click_brings_the_first_view_back(opened: Any) -> None:
    canvas = drawn(opened, VIEWER)
    canvas.click()
    image = "return arguments[0].toDataURL()"
    before = opened.execute_script(image, canvas)
    keys = webdriver.ActionChains(opened)
    changed(opened, canvas, lambda: keys.send_keys("++\ue012\ue013").perform())
    webdriver.ActionChains(opened).double_click(canvas).perform()
    until(lambda: opened.execute_script(image, canvas) == before, "the first view")


def test_errors_of_cameras_are_exaggerated_as_motions_about_the_object(opened: Any) -> None:
    """A rotation by 2 degrees about z with a translation, five times."""
    angle, translation = np.deg2rad(2.0), np.array([0.1, -0.2, 0.3])
    reference = np.hstack([np.diag([1.0, -1, -1]), [[1.0], [2], [3]]])
    turn = Rotation.from_rotvec([0, 0, angle]).as_matrix()
    camera = turn @ reference
    camera[:, 3] += translation
    drawn(opened, VIEWER)
    rows = opened.execute_script(
        "return exaggerated(pose(arguments[0]), pose(arguments[1]), 5).transpose().elements",
        camera.ravel().tolist(),
        reference.ravel().tolist(),
    )
    expected = Rotation.from_rotvec([0, 0, 5 * angle]).as_matrix() @ reference
    expected[:, 3] += 5 * translation
    assert np.reshape(rows, (4, 4))[:3] == pytest.approx(expected, abs=1e-12)


def test_views_are_drawn_again_after_the_graphics_card_was_lost(opened: Any) -> None:
    canvas = drawn(opened, VIEWER)
    image = "return arguments[0].toDataURL()"
    before = opened.execute_script(image, canvas)
    opened.execute_async_script("""
        const done = arguments[0];
        const {webgl} = renderer();
        webgl.domElement.addEventListener("webglcontextrestored", () => done());
        webgl.domElement.addEventListener("webglcontextlost", () => {
          document.dispatchEvent(new Event("redraw"));
          setTimeout(() => webgl.forceContextRestore(), 100);
        });
        webgl.forceContextLoss();
    """)
    until(lambda: opened.execute_script(image, canvas) == before, "the same image")
    opened.get_log("browser")  # three.js says that the context was lost


def test_all_viewers_share_one_context_and_one_library(opened: Any) -> None:
    drawn(opened, VIEWER)
    drawn(opened, "[data-scene=part-egg].viewer")
    contexts = "return [...document.querySelectorAll('canvas')].filter((c) => !c.getContext('2d'))"
    assert opened.execute_script(contexts) == []
    assert len(opened.find_elements("css selector", "script#three")) == 1


def test_the_browser_unpacks_the_mesh_that_was_packed(opened: Any) -> None:
    boxes = opened.execute_async_script("""
        const done = arguments[0];
        const surface = report.scenes["part-pebble"].surfaces[0];
        unpackMesh(surface).then(({positions, indices, normals, values}) => {
          const along = (axis, pick) => {
            let found = positions[axis];
            for (let i = axis; i < positions.length; i += 3) found = pick(found, positions[i]);
            return found;
          };
          let outwards = 0;
          for (let i = 0; i < positions.length; i++) outwards += positions[i] * normals[i];
          done({
            lower: [0, 1, 2].map((axis) => along(axis, Math.min)),
            upper: [0, 1, 2].map((axis) => along(axis, Math.max)),
            header: surface.header, corners: indices.length, largest: Math.max(...indices),
            outwards, values: [Math.min(...values.filter((v) => v >= 0)), Math.max(...values)],
          });
        });
    """)
    header = boxes["header"]
    assert boxes["lower"] == pytest.approx(header["lower"], abs=1e-3)
    assert boxes["upper"] == pytest.approx(header["upper"], abs=1e-3)
    assert boxes["corners"] == 3 * header["faces"]
    assert boxes["largest"] == header["vertices"] - 1
    assert boxes["outwards"] > 0
    assert boxes["values"] == pytest.approx(header["values"], abs=1e-3)


def test_all_iterations_are_drawn_side_by_side(opened: Any) -> None:
    drawn(opened, "[data-scene=part-pebble].series")
    selector = "[data-scene=part-pebble][data-group=free] canvas[data-drawn]"
    until(lambda: len(opened.find_elements("css selector", selector)) == 4, "four surfaces")
    for canvas in opened.find_elements("css selector", selector):
        part, colours, _ = painted(opened, canvas)
        assert part > 0.2
        assert colours > 500


def test_every_chart_draws_in_every_tab(opened: Any) -> None:
    for tab in opened.find_elements("css selector", ".tabs [role=tab]"):
        scroll_to(opened, tab)
        tab.click()
        panel = tab.get_attribute("aria-controls")
        for chart in opened.find_elements("css selector", f"#{panel} [data-chart]"):
            scroll_to(opened, chart)
            until(lambda chart=chart: chart.get_attribute("data-drawn"), "a chart")
            marks = chart.find_elements("css selector", ".trace path, .trace .point")
            assert marks, chart.get_attribute("data-chart")
    seconds = find(opened, "[data-chart='pebble/seconds']")
    scroll_to(opened, seconds)
    until(lambda: seconds.find_elements("css selector", ".bars .point path"), "bars")


def test_an_image_is_enlarged_with_all_its_layers(opened: Any) -> None:
    tile = find(opened, "#part-pebble-free-out .tile")
    scroll_to(opened, tile)
    tile.click()
    box = find(opened, "dialog[open]")
    captions = [caption.text for caption in box.find_elements("css selector", "figcaption")]
    assert [text.split("\n")[0] for text in captions] == [
        "Rendered normals",
        "Error of the normals",
        "Rendered normals, refined",
        "Error of the normals, refined",
        "Input normals",
        "Masks",
        "Integrated distance",
        "Ground-truth normals",
    ]
    assert "view 00" in box.text
    webdriver.ActionChains(opened).send_keys("\ue014").perform()  # right arrow
    until(lambda: "view 01" in box.text, "the next view")
    box.find_element("css selector", ".close").click()
    assert not opened.find_elements("css selector", "dialog[open]")


def test_a_link_into_a_closed_tab_opens_it(opened: Any) -> None:
    inside = find(opened, "#part-pebble-calibrated")
    assert not inside.is_displayed()
    follow(opened, "#part-pebble-calibrated")
    until(inside.is_displayed, "the tab")


def test_the_failed_run_is_explained(opened: Any) -> None:
    follow(opened, "#part-egg-calibrated")
    panel = find(opened, "#panel-part-egg-calibrated")
    until(panel.is_displayed, "the tab")
    assert "train failed" in panel.text
    assert "step 30: loss" in panel.text  # the last line of its log


def test_the_page_fits_a_phone_and_follows_the_dark_scheme(opened: Any) -> None:
    canvas = drawn(opened, VIEWER)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = opened.execute_script(paper)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    size = {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    try:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        assert opened.execute_script(paper) != light
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert opened.execute_script(wide) == 0
        until(lambda: opened.execute_script("return arguments[0].width <= 780", canvas), "a resize")
        scroll_to(opened, canvas)
        until(lambda: painted(opened, canvas)[0] > 0.02, "the surface")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
