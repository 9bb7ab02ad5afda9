"""The page in a real browser: it opens in silence, the dial moves everything, brushes filter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import absent, browser, choose, drag, errors, keys, show, text, texts
from page_runs import make_run

from palora.evaluation import Front
from palora.report.page import write_page

pytestmark = [
    pytest.mark.needs("moocore", "matplotlib", "selenium"),
    pytest.mark.skipif(bool(absent()), reason=absent()),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


def ring(driver: Any) -> tuple[float, float]:
    """Where the marker of the figure is."""
    marker = driver.find_element("css selector", "#figure .over .marker")
    return float(marker.get_attribute("cx")), float(marker.get_attribute("cy"))


def test_the_dial_moves_marker_numbers_and_outputs(driver: Any, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run {seed}", seed=seed) for seed in (0, 1)]
    runs.append(make_run(tmp_path / "ls", method="ls"))
    show(driver, write_page(runs, tmp_path / "page.html"))
    assert errors(driver) == []
    assert "λ: left 0.50 · right 0.50" in text(driver, "#ray")

    front = Front.load(runs[0] / "front.json")
    for steps, ray in (((), 2), (("ARROW_RIGHT",), 3), (("HOME",), 0)):
        before = ring(driver)
        if steps:
            keys(driver, "#preference", *steps)
            assert ring(driver) != before
        assert text(driver, '[data-column="loss/left"] td') == f"{front.losses[ray, 0]:.4g}"
        percent = text(driver, '[data-column="accuracy/right"] td')
        assert percent.endswith(" %")
        assert float(percent[:-2]) == pytest.approx(100 * front.metrics["accuracy/right"][ray].item(), abs=0.0051)
        weights = ",".join(f"{weight:g}" for weight in front.rays[ray].tolist())
        command = f"palora export '{tmp_path}/run 0' --preference {weights} --format state-dict"
        assert text(driver, "#command") == command
        # The likeliest class moves along the first weight (page_runs.samples_of); sample i is a digit i.
        guess = round(4 * front.rays[ray, 0].item())
        marks = [f"{guess} {'✓' if guess == index else '✗'}" for index in range(3) for _ in range(2)]
        assert texts(driver, "#outputs .guess") == marks
    slider = driver.find_element("css selector", "#preference")
    assert slider.get_attribute("aria-valuetext") == "left 1.00 · right 0.00"
    assert "dominates" not in text(driver, "#ray")
    keys(driver, "#preference", "ARROW_RIGHT")
    assert "another preference of this run dominates it" in text(driver, "#ray"), "ray 1 was made so"
    assert errors(driver) == []


def test_brushes_filter(driver: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=7, divisions=2)
    show(driver, write_page([run]))
    assert errors(driver) == []
    front = Front.load(run / "front.json")
    lines = "#figure path.ray"
    assert len(driver.find_elements("css selector", lines)) == len(front) == 28
    # The upper half of the first axis: the better half of its range of losses.
    overlay = driver.find_element("css selector", '#figure [data-column="0"] .overlay')
    height = int(overlay.rect["height"])
    drag(driver, overlay, (0, 0), (0, -height // 2 - 5))
    losses = front.losses[:, 0]
    middle = (losses.max() + losses.min()) / 2
    kept = [i for i, loss in enumerate(losses) if loss < middle]
    shown = driver.find_elements("css selector", f"{lines}:not(.out)")
    assert [int(line.get_attribute("data-ray")) for line in shown] == kept
    assert 0 < len(kept) < 28
    assert text(driver, "#filter-note") == f"{len(kept)} of 28 preferences pass the filter."
    driver.find_element("css selector", "#rays-box summary").click()
    rows = [row for row in driver.find_elements("css selector", "#rays tbody tr") if row.is_displayed()]
    assert [int(row.get_attribute("data-ray")) for row in rows] == kept
    driver.find_element("css selector", "#clear").click()
    assert not driver.find_elements("css selector", f"{lines}.out")
    assert errors(driver) == []


@pytest.mark.slow
def test_filtering_by_numbers_and_by_keyboard(driver: Any, tmp_path: Path) -> None:
    show(driver, write_page([make_run(tmp_path / "run", tasks=7, divisions=2)]))
    driver.find_element("css selector", "#bounds summary").click()
    field = driver.find_element("css selector", '#bounds-fields input[data-column="2"]')
    field.send_keys("0.5\t")
    out = {int(line.get_attribute("data-ray")) for line in driver.find_elements("css selector", "#figure .ray.out")}
    losses = Front.load(tmp_path / "run" / "front.json").losses[:, 2]
    assert out == {i for i, loss in enumerate(losses) if loss > 0.5}
    assert driver.find_elements("css selector", '#figure [data-column="2"] .selection')
    assert errors(driver) == []


@pytest.mark.slow
def test_one_slider_a_task_beyond_three(driver: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tasks=7, divisions=2)
    show(driver, write_page([run]))
    keys(driver, '[data-task="3"]', "END")
    weights = [float(found) for found in texts(driver, "#dial output")]
    assert weights == [0, 0, 0, 1, 0, 0, 0]
    assert text(driver, "#ray").startswith("λ: torque 4 1.00")
    front = Front.load(run / "front.json")
    vertex = int(front.rays[:, 3].argmax())
    answers = [cell.split("\n")[0] for cell in texts(driver, "#answers tbody tr:first-child td.number")]
    assert answers == [f"{10 * weight:g}" for weight in front.rays[vertex].tolist()]
    keys(driver, '[data-task="0"]', *["ARROW_RIGHT"] * 30)
    weights = [float(found) for found in texts(driver, "#dial output")]
    assert sum(weights) == pytest.approx(1, abs=0.03)
    assert weights[0] == 0.3
    assert "nearest evaluated" in text(driver, "#ray"), "0.3 and 0.7 are not on the grid"
    assert errors(driver) == []


@pytest.mark.slow
def test_three_tasks_have_a_triangle(driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    runs = [make_run(tmp_path / "run", tasks=3), make_run(tmp_path / "ls", tasks=3, method="ls")]
    show(driver, write_page(runs))
    assert errors(driver) == []
    pad = driver.find_element("css selector", "#preference")
    outline = pad.find_element("css selector", "clipPath path").get_attribute("d")
    top = [float(number) for number in re.findall(r"[\d.]+", outline)[:2]]
    scale = pad.rect["width"] / 320
    offset = round(top[0] * scale - pad.rect["width"] / 2), round((top[1] + 4) * scale - pad.rect["height"] / 2)
    ActionChains(driver).move_to_element_with_offset(pad, *offset).click().perform()
    assert text(driver, "#ray").startswith("λ: top-left 1.00 · top-right 0.00 · bottom 0.00")
    before = ring(driver)
    keys(driver, "#preference", "ARROW_DOWN")
    assert ring(driver) != before
    assert "top-left 0.75" in text(driver, "#ray")
    keys(driver, "#preference", "HOME")
    assert "top-left 0.50 · top-right 0.25 · bottom 0.25" in text(driver, "#ray"), "nearest to the centre"
    assert len(driver.find_elements("css selector", "#figure .cell")) == 3 * 15
    driver.find_element("css selector", '[data-view="solid"]').click()
    points = "#figure .point"
    before_turn = [p.get_attribute("transform") for p in driver.find_elements("css selector", points)]
    assert len(before_turn) == 16
    keys(driver, "#figure svg", "ARROW_LEFT")
    assert [p.get_attribute("transform") for p in driver.find_elements("css selector", points)] != before_turn
    drag(driver, driver.find_element("css selector", "#figure svg"), (100, 100), (40, 10))
    assert errors(driver) == []


@pytest.mark.slow
def test_hover_shows_and_click_moves_the_dial(driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver import ActionChains

    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    show(driver, write_page(runs, tmp_path / "page.html"))
    point = driver.find_elements("css selector", '#figure .point[data-ray="4"]')[1]
    ActionChains(driver).move_to_element(point).perform()
    tip = text(driver, "#tip")
    front = Front.load(runs[1] / "front.json")
    assert "palora, seed 1" in tip
    assert "left 0.00 · right 1.00" in tip
    for name, found in front.metrics.items():
        assert f"{name} {100 * found[4]:.2f} %" in tip
    ActionChains(driver).move_to_element(point).click().perform()
    assert text(driver, "#ray") == "λ: left 0.00 · right 1.00"
    assert driver.find_element("css selector", "#run").get_attribute("value") == "1"
    assert "Answers were kept of palora, seed 0" in text(driver, "#outputs-note")


@pytest.mark.slow
def test_what_is_seen_of_several_runs(driver: Any, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run{seed}", seed=seed) for seed in (0, 1)]
    runs.append(make_run(tmp_path / "ls", method="ls"))
    show(driver, write_page(runs, tmp_path / "page.html"))
    assert len(driver.find_elements("css selector", "#figure .band")) == 1
    assert len(driver.find_elements("css selector", "#figure .point.dominated")) >= 2
    table = text(driver, "#comparison")
    assert re.search(r"palora 0, 1 0\.\d{4} ± 0\.\d{4}", table)
    assert "1.00 GiB" in table
    assert "−1.000" in text(driver, "#monotonicity") or "−0.9" in text(driver, "#monotonicity")
    assert "losses (1, 1)" in text(driver, "#comparison-note")
    assert len(driver.find_elements("css selector", "#curves svg")) == 3
    driver.find_element("css selector", "#legend input").click()
    assert not driver.find_elements("css selector", "#figure .band"), "switched off"
    driver.find_element("css selector", "#legend input").click()
    choose(driver, "#figure-options select", "0")  # losses, whose hypervolume has a reference
    choose(driver, "#figure-options label:nth-of-type(2) select", "1")
    driver.find_element("css selector", "#volume").click()
    assert driver.find_elements("css selector", "#figure .volume")
    assert "reference" in texts(driver, "#figure text")
    driver.find_element("css selector", '[data-view="along"]').click()
    assert len(driver.find_elements("css selector", "#figure .band")) == 2, "one a panel; ls is a single line"
    driver.find_element("css selector", '[data-view="parallel"]').click()
    assert len(driver.find_elements("css selector", "#figure .over .band")) == 1, "the seeds at the dial's preference"
    driver.find_element("css selector", "#config-box summary").click()
    assert "method_options" in text(driver, "#config")
    driver.find_element("css selector", "#environment-box summary").click()
    assert "torch" in text(driver, "#environment")
    assert errors(driver) == []
