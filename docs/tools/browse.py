"""Open every page of the built site in Chromium: ``python docs/tools/browse.py site``.

At the width of a desktop and of a phone: no message on the console, no request to elsewhere, no broken picture, no
horizontal scroll. The search is tried once. Needs ``pip install selenium``, and Chromium or Chrome
with its driver.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By

__all__ = ["browse", "browser", "served"]

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
BROKEN = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
TOO_WIDE = "return document.documentElement.scrollWidth - window.innerWidth"


class Quiet(SimpleHTTPRequestHandler):
    """A server that prints nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder, and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """A headless Chromium whose page is exactly so wide."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), "")
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield driver
    driver.quit()


def faults(driver: webdriver.Chrome, root: str) -> list[str]:
    """What is wrong with the page that is open."""
    found = [f"console: {entry['message']}" for entry in driver.get_log("browser") if entry["level"] != "INFO"]
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if url.startswith("http") and not url.startswith(root):
                found.append(f"a request to {url}")
    found += [f"broken picture {source}" for source in driver.execute_script(BROKEN)]
    if (more := driver.execute_script(TOO_WIDE)) > 0:
        found.append(f"{more} pixels wider than the screen")
    return found


def search_works(driver: webdriver.Chrome, root: str) -> bool:
    """Whether the search finds the page of a name."""
    driver.get(f"{root}/index.html")
    box = driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
    driver.execute_script("document.querySelector('#__search').click()")
    time.sleep(0.5)
    box.send_keys("select_and_reset")
    for _ in range(50):
        time.sleep(0.2)
        if driver.find_elements(By.CSS_SELECTOR, ".md-search-result__link"):
            return True
    return False


def browse(site: Path, pictures: Path | None = None) -> list[str]:
    """Open every page at both widths.

    Args:
        site: the built site.
        pictures: a folder for a picture of each page; none are taken without.

    Returns:
        A line for each fault.
    """
    found: list[str] = []
    pages = sorted(str(path.relative_to(site)) for path in site.rglob("*.html") if path.name != "404.html")
    with served(site) as root:
        for kind, (width, height) in WIDTHS.items():
            with browser(width, height) as driver:
                for page in pages:
                    driver.get(f"{root}/{page}")
                    found += [f"{page}, {kind}: {fault}" for fault in faults(driver, root)]
                    if pictures is not None:
                        driver.save_screenshot(pictures / f"{page.replace('/', '-')}-{kind}.png")
                if kind == "desktop" and not search_works(driver, root):
                    found.append("the search finds nothing")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    wrong = browse(given.site, given.pictures)
    print("\n".join(wrong) or "every page is well at both widths")
    raise SystemExit(bool(wrong))
