"""The web page in a browser: headless Chromium, where it, its driver and the extras are there."""

import json
import shutil
import zipfile

import pytest
from untrained import write_images
from waiting import PATIENCE

gradio = pytest.importorskip("gradio", reason="needs the extra `webapp-test`")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra `webapp-test`")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from vmt_mm.webapp.app import WebApp  # noqa: E402

_FLAGS = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1500,1000")


@pytest.fixture
def address(inferencer):
    """The served page's address."""
    app = WebApp(inferencer, "test", examples=2)
    yield app.launch(block=False)
    app.close()


@pytest.fixture
def browser(tmp_path):
    """A browser that logs its requests and downloads to ``tmp_path/downloads``."""
    options = webdriver.ChromeOptions()
    for flag in _FLAGS:
        options.add_argument(f"--{flag}")
    folder = str(tmp_path / "downloads")
    options.add_experimental_option("prefs", {"download.default_directory": folder})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.binary_location = shutil.which("chromium")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


class Page:
    """What a user does on the page."""

    def __init__(self, browser, address):
        self.browser, self.wait = browser, WebDriverWait(browser, PATIENCE)
        browser.get(address)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def titles(self):
        return [title.text for title in self.all(".vmt-tile figcaption")]

    def until(self, condition):
        return self.wait.until(lambda _: condition())

    def upload(self, path):
        find = "#vmt-upload input[type=file]"
        self.until(lambda: self.all(find))
        self.all(find)[0].send_keys(str(path))

    def click(self, text):
        [found] = [b for b in self.all("button, label") if b.text == text]
        found.click()


def requested(browser):
    """Addresses of all requests."""
    messages = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    sent = [m for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [m["params"]["request"]["url"] for m in sent]


def test_the_page(address, browser, tmp_path):
    page = Page(browser, address)
    tasks = ["semseg", "human_parts", "saliency", "normals"]
    page.until(lambda: page.titles() == ["scene_1", *tasks])  # it begins with an example
    page.until(lambda: len(page.all("#vmt-examples button img")) == 2)
    page.all("#vmt-examples button img")[1].click()
    page.until(lambda: page.titles()[:1] == ["scene_2"])

    text = tmp_path / "text.png"
    text.write_text("this is text")
    page.upload(text)
    [message] = page.until(lambda: page.all(".vmt-error"))
    assert message.text.startswith("text.png is no image") and not page.titles()
    page.all("#vmt-upload button[aria-label=Clear]")[0].click()
    page.until(lambda: page.all(".vmt-note"))

    page.upload(write_images(tmp_path, 1)[0])
    page.until(lambda: page.titles() == ["image_000", *tasks])
    page.click("saliency")
    page.until(lambda: page.titles() == ["image_000", *(t for t in tasks if t != "saliency")])

    [number] = page.all("input[type=number]")
    number.clear()
    number.send_keys("30\n")
    opacity = "return getComputedStyle(document.querySelector('.vmt-stack img')).opacity"
    page.until(lambda: browser.execute_script(opacity) == "0.3")
    page.click("Download as zip")
    folder = tmp_path / "downloads"
    archive = folder / "image_000_predictions.zip"
    page.until(lambda: archive.exists() and zipfile.is_zipfile(archive))
    with zipfile.ZipFile(archive) as content:
        assert "normals/image_000.png" in content.namelist()

    elsewhere = [a for a in requested(browser) if not a.startswith((address, "data:", "blob:"))]
    assert not elsewhere
