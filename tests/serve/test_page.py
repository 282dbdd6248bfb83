"""The page in a real browser: Chromium through Playwright (extra ``[browser]``); skips without either."""

from __future__ import annotations

import os
import shutil

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install '.[browser]'")
from playwright import sync_api

from aista.inference.coverage import TranslationWarning
from aista.inference.translating import SpeechTranslator
from aista.serve.bounds import Limits
from tests.serve.serving import Gated, served, stand_in, talk

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium, or CHROMIUM=path"),
]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip

# The lowest contrast of a text with what lies behind it, by WCAG 2's formula.
CONTRAST = """() => {
  const parse = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v < .04 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (element) => {
    const [r, g, b, a = 1] = parse(getComputedStyle(element).backgroundColor);
    return a ? [r, g, b] : behind(element.parentElement); };
  let worst = [99, ''];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const ink = light(parse(getComputedStyle(element).color).slice(0, 3));
    const [a, b] = [ink, light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 80)];
  }
  return worst; }"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    with served(stand_in()) as (at, _):
        yield at


@pytest.fixture(params=[("light", 1200), ("dark", 390)], ids=lambda param: f"{param[0]}-{param[1]}")
def page(browser, address, request):
    scheme, width = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(20_000)
    troubles = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    ours = (address, "blob:", "data:")
    page.on("request", lambda asked: asked.url.startswith(ours) or troubles.append(asked.url))
    page.goto(address)
    yield page
    context.close()
    assert not troubles


def choose(page, content):
    page.get_by_label("Choose a recording").set_input_files(
        {"name": "talk.wav", "mimeType": "audio/wav", "buffer": content}
    )


def translated(page):
    page.get_by_role("button", name="Translate").click()
    sync_api.expect(page.get_by_role("status")).to_contain_text("Done")
    return page.locator("ol button")


def test_a_file_becomes_segments_that_play_and_subtitles(page):
    assert page.get_by_label("Translate into").input_value() == "zh"
    choose(page, talk(9))
    lines = translated(page)
    assert lines.count() > 2 and lines.first.locator("[lang=zh]").inner_text().startswith("中w")
    last = lines.last
    last.click()
    page.wait_for_function("() => document.querySelector('audio').currentTime > 5")
    assert last.get_attribute("aria-current") == "true"
    page.wait_for_function("() => document.querySelector('audio').paused")
    for name, start in (("SRT", "1\n00:00:0"), ("VTT", "WEBVTT\n")):
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download {name}").click()
        assert download.value.suggested_filename == f"talk.zh.{name.lower()}"
        assert download.value.path().read_text(encoding="utf-8").startswith(start)


def test_it_goes_by_keyboard(page):
    """Sample, language, translation, and the first segment, without a mouse."""
    page.get_by_role("button", name="Take a sample").focus()
    page.keyboard.press("Enter")
    sync_api.expect(page.get_by_role("status")).to_contain_text("sample")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    sync_api.expect(page.get_by_role("status")).to_contain_text("Done")
    assert page.evaluate("document.activeElement.id") == "go"  # the focus stays where it was
    line = page.locator("ol button").first
    assert line.locator("[lang=ja]").inner_text().startswith("日w")
    line.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('audio').paused")


def test_the_microphone(page):
    """Chromium's own false microphone beeps."""
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1_500)
    page.get_by_role("button", name="Stop recording").click()
    sync_api.expect(page.get_by_role("status")).to_contain_text("your recording")
    lines = translated(page)
    assert lines.first.locator("[lang=zh]").inner_text().startswith("中w")


def test_an_error_is_read_out_and_the_next_file_is_taken(page):
    choose(page, b"no sound")
    page.get_by_role("button", name="Translate").click()
    alert = page.get_by_role("alert")
    sync_api.expect(alert).to_contain_text("talk.wav")
    assert "pip" not in alert.inner_text()
    choose(page, talk(1))
    assert translated(page).count() and alert.is_hidden()


def test_another_file_ends_the_translation_that_runs(browser):
    model = Gated()
    with served(model) as (at, _):
        page = browser.new_page()
        page.goto(at)
        choose(page, talk(9))
        page.get_by_role("button", name="Translate").click()
        assert model.at_work.wait(20)
        choose(page, talk(1))
        sync_api.expect(page.get_by_role("button", name="Translate")).to_be_visible()
        sync_api.expect(page.get_by_role("status")).to_have_text("Ready: talk.wav")
        model.gate.set()
        assert translated(page).count() == 1 and page.locator("#result").is_visible()
        page.close()


def test_record_pressed_twice_makes_one_recording(page):
    page.evaluate("""() => {
        window.asked = 0;
        const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            asked += 1; await new Promise((go) => setTimeout(go, 300)); return real(wanted); }; }""")
    page.evaluate("() => { for (const _ of 'ab') document.getElementById('record').click(); }")
    page.wait_for_timeout(1_500)
    page.get_by_role("button", name="Stop recording").click()
    sync_api.expect(page.get_by_role("status")).to_contain_text("your recording")
    assert page.evaluate("asked") == 1


def test_a_recording_ends_before_the_longest_that_is_taken(browser):
    with served(stand_in(), Limits(max_minutes=0.06)) as (at, _):
        page = browser.new_page()
        page.goto(at)
        sync_api.expect(page.locator("#foot")).to_contain_text("0.06 minutes")
        page.get_by_role("button", name="Record", exact=True).click()
        sync_api.expect(page.get_by_role("status")).to_contain_text("your recording")
        assert translated(page).count() == 1
        page.close()


def test_the_slider_leaves_the_segment_that_was_played(page):
    choose(page, talk(9))
    translated(page).first.click()
    page.wait_for_function("() => document.querySelector('audio').currentTime > .1")
    page.evaluate("() => { document.querySelector('audio').currentTime = 9; }")
    page.wait_for_function("() => document.querySelector('audio').currentTime > 9.5")
    assert not page.evaluate("document.querySelector('audio').paused")


def test_behind_a_proxy_the_page_asks_below_its_own_address(browser, address):
    page = browser.new_page()
    page.route("**/below/**", lambda route: route.continue_(url=route.request.url.replace("/below", "")))
    page.goto(address + "/below/")
    choose(page, talk(1))
    assert translated(page).count() == 1
    page.route("**/v1/**", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    page.get_by_role("button", name="Translate").click()
    sync_api.expect(page.get_by_role("alert")).to_contain_text("status 502")
    page.close()


def test_a_warning_of_many_places_says_how_many_more(page, monkeypatch):
    spans = tuple((float(n), n + 0.5) for n in range(5))
    warnings = lambda *_: iter([TranslationWarning("noise", "not translated", spans)])  # noqa: E731
    monkeypatch.setattr(SpeechTranslator, "_warnings", warnings)
    choose(page, talk(1))
    translated(page)
    assert (
        page.locator("#warnings p").inner_text()
        == "0:00–0:00, 0:01–0:01, 0:02–0:02 and 2 more: not translated"
    )


def test_everything_can_be_read_and_nothing_sticks_out(page):
    choose(page, talk(3))
    translated(page)
    ratio, where = page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    unnamed = """() => [...document.querySelectorAll('button, select, input:not([type=hidden]), a')]
        .filter((one) => one.checkVisibility() && !(one.innerText || one.labels?.[0]?.innerText)).length"""
    assert page.evaluate(unnamed) == 0


@pytest.mark.slow
def test_a_server_with_a_key_asks_for_it(browser):
    with served(stand_in(), Limits(api_key="s3cret鍵")) as (at, _):
        page = browser.new_page()
        page.goto(at)
        choose(page, talk(1))
        page.get_by_role("button", name="Translate").click()
        sync_api.expect(page.get_by_role("alert")).to_contain_text("key")
        page.get_by_label("Key of this server").fill("s3cret鍵")
        assert translated(page).count() == 1
        page.close()
