"""A browser, and a site for it: headless Chromium, and Django's own server for tests in a thread.

Where there is no Chromium these tests are not there either, and the end of the session says so. With
SIGNALQ_TEST_CHROMIUM=required, or the path of a browser, they are there and fail.
"""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.db import connections
from django.test import Client
from django.test.testcases import LiveServerThread
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains

from tests.integration.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest, HttpResponse

HERE = Path(__file__).parent
CHROMIUM = "SIGNALQ_TEST_CHROMIUM"
INSTALL = "apt-get install -y chromium chromium-driver"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"),
]
left_out: list[str] = []


def chromium() -> str | None:
    wanted = os.environ.get(CHROMIUM, "")
    if wanted not in ("", "required"):
        return wanted
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def is_there() -> bool:
    return bool(chromium() and shutil.which("chromedriver"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_there() or os.environ.get(CHROMIUM):
        return
    mine = [item for item in items if HERE in item.path.parents]
    if mine:
        left_out.extend(item.nodeid for item in mine)
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in mine]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if left_out:
        terminalreporter.write_line(f"No Chromium here: {len(left_out)} tests are left out. For them: {INSTALL}")


class Page:
    """The browser, looking at the site."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.clicks = 0

    def size(self, width: int, height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme: str) -> None:
        """`light` or `dark`, as the system's setting."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def without_scripts(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})

    def go(self, path: str) -> None:
        self.driver.get(f"{self.url}{path}")

    def js(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """What is to be seen of it."""
        seen = "const e = document.querySelector(arguments[0]); return e?.checkVisibility() ? e.innerText : ''"
        return str(self.js(seen, selector))

    def click(self, selector: str) -> None:
        """As a person does: it must be there and visible. They are counted."""
        self._click("css selector", selector)

    def click_text(self, text: str) -> None:
        """A link or a button with just this text."""
        self._click("xpath", f'//*[self::a or self::button][normalize-space()="{text}"]')

    def _click(self, by: str, what: str) -> None:
        self.clicks += 1
        try:
            self.driver.find_element(by, what).click()
        except StaleElementReferenceException:  # it was refreshed between the two
            self.driver.find_element(by, what).click()

    def says(self, selector: str, text: str) -> None:
        """A click does not wait for the page that it leads to."""
        self.wait(lambda: text in self.text(selector), f"{selector} to say {text!r}")

    def wait(self, condition: Callable[[], object], what: str, timeout: float = 20) -> None:
        wait_for(condition, lambda: f"{what}; the page says:\n{self.text('body')}", timeout)

    def keys(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        return str(self.js("return document.activeElement.id"))

    def offline(self, away: bool) -> None:
        self.driver.execute_cdp_cmd("Network.enable", {})
        speed = {"offline": away, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", speed)

    def picture(self, file: Path, most: int = 10_000) -> None:
        """A screenshot of the page, of its upper `most` pixels."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most), "scale": 1}
        options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))

    def complaints(self) -> list[str]:
        """What the browser's console says."""
        found = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in found if "favicon" not in message]


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    assert is_there(), f"No Chromium with its driver here: {INSTALL}"
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium())
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    driver.implicitly_wait(5)
    yield driver
    driver.quit()


CSP = "default-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'"


def strict(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware of a careful project: no inline script or style, nothing from elsewhere."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = CSP
        return response

    return respond


@pytest.fixture
def server(every_alias: list[str], settings: Any) -> Iterator[str]:
    settings.MIDDLEWARE = [f"{__name__}.strict", "django.middleware.csrf.CsrfViewMiddleware", *settings.MIDDLEWARE]
    thread = LiveServerThread("127.0.0.1", StaticFilesHandler, port=0)
    thread.daemon = True
    thread.start()
    thread.is_ready.wait()
    if thread.error:
        raise thread.error
    yield f"http://127.0.0.1:{thread.port}"
    thread.terminate()
    connections.close_all()


@pytest.fixture
def page(driver: webdriver.Chrome, server: str) -> Iterator[Page]:
    """Signed in as somebody who may do everything."""
    page = Page(driver, server)
    page.size(1280)
    page.colours("light")
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    page.go("/static/signalq/panel.css")  # a cookie is for the site that one is on
    driver.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value, "path": "/"})
    page.complaints()
    yield page
    page.offline(False)
    driver.delete_all_cookies()
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    driver.get("about:blank")


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: docs/images with SIGNALQ_SCREENSHOTS=docs/images."""
    return Path(os.environ.get("SIGNALQ_SCREENSHOTS") or tmp_path)
