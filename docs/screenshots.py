"""Take docs/images/demo.png and docs/images/docs.png of a service just started by `make demo`.

Run it as `build/test/bin/python docs/screenshots.py [http://127.0.0.1:8080]`; it needs Chromium.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

IMAGES = Path(__file__).with_name("images")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome")
STREAMS = ("socket", "events")


def say(page: Page, text: str, by: str, streams: Sequence[str] = STREAMS) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name=f"Send by {by}").click()
    for stream in streams:
        expect(page.locator(f"#{stream} li.message").last).to_contain_text(text)


def demo(page: Page, base: str) -> None:
    """Both streams: one was cut and has come back for what it missed, the other is cut now."""
    page.goto(base)
    for stream in STREAMS:
        expect(page.locator(f"#{stream} output")).to_have_text("open")
    say(page, "Hello from a POST", "POST")
    say(page, "And hello from a WebSocket", "WebSocket")
    page.locator("#events").get_by_role("button", name="Cut").click()
    say(page, "Sent while the other stream was cut", "POST", ["socket"])
    expect(page.locator("#events li.message").last).to_contain_text("was cut")
    page.locator("#socket").get_by_role("button", name="Cut").click()
    expect(page.locator("#socket output")).to_contain_text("back in")
    page.screenshot(path=IMAGES / "demo.png")


def docs(page: Page, base: str) -> None:
    """The documentation's list of operations."""
    page.goto(f"{base}/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    page.wait_for_timeout(500)  # it fades in
    page.screenshot(path=IMAGES / "docs.png", clip={"x": 0, "y": 40, "width": 1040, "height": 790})


def main(base: str) -> None:
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        demo(browser.new_page(viewport={"width": 1040, "height": 636}), base)
        docs(browser.new_page(viewport={"width": 1040, "height": 840}), base)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
