"""A headless Chromium that reaches this machine and nothing else: what people see, seen by a test.

Debian's `chromium` and its `chromium-driver`, with an empty profile of their own. A test that needs them is skipped
where they are not installed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support.polling import wait_until

SCREENSHOTS = "NIGHTSHIFT_TEST_SCREENSHOTS"  # a directory that keeps them
# Taken out of the environment: it is no setting, and unknown ones are refused.
_KEPT = os.environ.pop(SCREENSHOTS, None)

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    # Names are not resolved and other addresses have a proxy that is not there.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=127.0.0.1;localhost",
    "--lang=en-GB",
)


class Browser:
    """One window. Elements are named by CSS selectors; whatever is not there yet is waited for."""

    def __init__(self, driver: Chrome, screenshots: Path) -> None:
        self._driver = driver
        self._screenshots = screenshots

    def open(self, url: str) -> None:
        """Visit a page, and wait until it has loaded. `http://user:password@…` logs in."""
        self._driver.get(url)

    def text(self, css: str = "body") -> str:
        """The text that is to be seen in the first such element."""
        self.find(css)
        # In one step: between finding an element and reading it, another page may have come.
        return next(iter(self.texts(css)), "")

    def texts(self, css: str) -> list[str]:
        """The text of each such element; none is no error."""
        found = self.run_script(
            "return [...document.querySelectorAll(arguments[0])].map(element => element.innerText.trim())", css
        )
        assert isinstance(found, list)
        return found

    def find(self, css: str, *, seconds: float = 10.0) -> WebElement:
        """The first such element.

        Raises:
            AssertionError: there was none within `seconds`.
        """
        return wait_until(
            lambda: next(iter(self._driver.find_elements(By.CSS_SELECTOR, css)), None), seconds=seconds, what=css
        )

    def click(self, css: str) -> None:
        """Click the first such element."""
        self.find(css).click()

    def fill(self, css: str, value: str) -> None:
        """Replace what is in an input."""
        element = self.find(css)
        element.clear()
        element.send_keys(value)

    def press(self, keys: str) -> None:
        """Keys for whatever has the focus; those without a letter are of selenium's `Keys`."""
        self._driver.switch_to.active_element.send_keys(keys)

    def set_window(self, width: int, height: int) -> None:
        """The size of the page in CSS pixels; as small as that of a telephone."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def emulate_dark(self, dark: bool) -> None:
        """Whether the reader prefers dark pages."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, name: str) -> Path:
        """A PNG of the window, as `name`.png where the screenshots of this run are; its path."""
        path = self._screenshots / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._driver.get_screenshot_as_png())
        return path

    def run_script(self, script: str, *arguments: object) -> object:
        """What a script `return`s in the page; it finds `arguments`."""
        return self._driver.execute_script(script, *arguments)

    def run_async(self, script: str, *arguments: object) -> object:
        """What a script hands to its last argument, a function, when it is done."""
        return self._driver.execute_async_script(script, *arguments)

    def errors(self) -> list[str]:
        """What the page has complained of since the last call: failed requests and exceptions of scripts."""
        entries = self._driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]


@contextmanager
def browser(screenshots: Path | None = None) -> Iterator[Browser]:
    """A browser of one's own. Screenshots go where the environment says, else to `screenshots`, else are lost.

    Skips the test where Chromium or its driver is not installed.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium, chromium-driver)")
    with TemporaryDirectory(prefix="nightshift-browser-", ignore_cleanup_errors=True) as directory:
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (*_FLAGS, f"--user-data-dir={directory}/profile"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        chrome = Chrome(options, ChromeService(driver))
        # Reading a page aloud takes long where other tests keep the machine busy.
        chrome.set_script_timeout(120)
        try:
            seen = Browser(chrome, Path(_KEPT) if _KEPT else screenshots or Path(directory) / "screenshots")
            seen.set_window(1280, 800)
            yield seen
        finally:
            chrome.quit()
