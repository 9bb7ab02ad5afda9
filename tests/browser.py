"""A headless Chromium for tests that look at pages, driven by Selenium; neither is asked to fetch anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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
