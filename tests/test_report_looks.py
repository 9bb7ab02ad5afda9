"""The looks of the page in a real browser: saved figures, windows, themes, names for screen readers, hostile names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from browser import absent, browser, errors, show, text, until
from page_runs import make_run
from PIL import Image

from palora.report.page import write_page

pytestmark = [
    pytest.mark.needs("moocore", "matplotlib", "selenium"),
    pytest.mark.skipif(bool(absent()), reason=absent()),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_figures_are_saved(driver: Any, tmp_path: Path, tasks: int, theme: str) -> None:
    show(driver, write_page([make_run(tmp_path / "run", tasks=tasks, divisions=2)]), theme=theme)
    driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for kind in ("svg", "png"):
        driver.find_element("css selector", f"#save-{kind}").click()
    until(lambda: len([*tmp_path.glob("palora-*.svg"), *tmp_path.glob("palora-*.png")]) == 2)
    svg = ElementTree.parse(next(tmp_path.glob("palora-*.svg"))).getroot()
    drawn = ElementTree.tostring(svg, encoding="unicode")
    assert "var(" not in drawn, "colours are written out"
    assert svg.get("viewBox", "").startswith("0 0 ")
    picture = Image.open(next(tmp_path.glob("palora-*.png")))
    assert picture.width > 1000
    corner = picture.convert("RGB").getpixel((1, 1))
    assert (sum(corner) < 150) == (theme == "dark")
    assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
    assert errors(driver) == []


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_every_view_fits_the_window(driver: Any, tmp_path: Path, tasks: int, width: int, theme: str) -> None:
    runs = [make_run(tmp_path / "run", tasks=tasks, divisions=2), make_run(tmp_path / "ls", tasks=tasks, method="ls")]
    show(driver, write_page(runs), width=width, theme=theme)
    views = [view.get_attribute("data-view") for view in driver.find_elements("css selector", "#views button")]
    assert len(views) >= 2
    for view in views:
        driver.find_element("css selector", f'[data-view="{view}"]').click()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        out = driver.execute_script(
            "const card = document.getElementById('figure-card').getBoundingClientRect();"
            "return [...document.querySelectorAll('#figure text')]"
            ".map((t) => [t.textContent, t.getBoundingClientRect()])"
            ".filter(([text, r]) => text && (r.left < card.left || r.right > card.right)).map(([text]) => text)"
        )
        assert out == [], f"{view}: labels outside of the card"
    dark = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (theme == "dark")
    assert errors(driver) == []


@pytest.mark.slow
def test_everything_has_a_name_for_a_screen_reader(driver: Any, tmp_path: Path) -> None:
    for tasks in (2, 3, 7):
        show(driver, write_page([make_run(tmp_path / f"run{tasks}", tasks=tasks, divisions=2)]))
        driver.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        wanted = {"button", "slider", "combobox", "checkbox", "spinbutton", "application", "image", "textbox"}
        for node in nodes:
            role = node.get("role", {}).get("value", "").lower()
            if not node.get("ignored") and role in wanted:
                assert node.get("name", {}).get("value", "").strip(), json.dumps(node)[:300]
        assert driver.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.slow
def test_hostile_names_are_only_text(driver: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    run = make_run(tmp_path / evil)
    content = json.loads((run / "front.json").read_text())
    content["tasks"] = [evil, "right"]
    content["note"] = f"</script>{evil}"
    content["metrics"] = {f"{evil}/{evil}": [row[0] for row in content["losses"]]}
    (run / "front.json").write_text(json.dumps(content))
    config = json.loads((run / "config.json").read_text())
    config["recipe"] = evil
    (run / "config.json").write_text(json.dumps(config))
    show(driver, write_page([run]))
    assert text(driver, "h1") == evil
    assert evil in text(driver, "#about")
    assert not driver.find_elements("css selector", "img[src=x]")
    assert errors(driver) == []
