"""A headless Chromium for tests that look at pages, driven by Selenium; neither is asked to fetch anything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (  # as root in a container, with nothing but the page
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


def absent() -> str:
    """Why there is no browser here; empty where there is one."""
    if not any(map(shutil.which, BROWSERS)):
        return "there is no Chromium here (Debian: apt-get install chromium chromium-driver)"
    if shutil.which("chromedriver") is None:
        return "there is no chromedriver here (Debian: apt-get install chromium-driver)"
    return ""


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """A fresh browser that keeps all it writes in `folder`; downloads go to ``folder / "downloads"``."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(path for name in BROWSERS if (path := shutil.which(name)))
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()


def show(driver: Any, page: Path, width: int = 1280, height: int = 900, theme: str = "light") -> None:
    """Open `page` in a window of that size; a narrow one is a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(page.resolve().as_uri())


def errors(driver: Any) -> list[str]:
    """What the console says since the last call: errors, warnings and violations of the policy alike."""
    return [entry["message"] for entry in driver.get_log("browser")]


def texts(driver: Any, css: str) -> list[str]:
    return [element.text for element in driver.find_elements("css selector", css)]


def text(driver: Any, css: str) -> str:
    return str(driver.find_element("css selector", css).text)


def keys(driver: Any, css: str, *names: str) -> None:
    from selenium.webdriver.common.keys import Keys

    driver.find_element("css selector", css).send_keys(*(getattr(Keys, name) for name in names))


def choose(driver: Any, css: str, value: str) -> None:
    """Pick an option of a select as a person would."""
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("css selector", css)).select_by_value(value)


def drag(driver: Any, element: Any, start: tuple[int, int], by: tuple[int, int]) -> None:
    """Press at an offset from the middle of `element`, move, let go."""
    from selenium.webdriver import ActionChains

    actions = ActionChains(driver).move_to_element_with_offset(element, *start).click_and_hold()
    actions.move_by_offset(*by).release().perform()


def until(found: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)
