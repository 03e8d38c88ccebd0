"""The page in a headless browser: upload, turns, masks, brush, keys, hostile text."""

import contextlib
import pathlib
import threading
import time

import numpy as np
import pytest

from tests.serving import helpers

uvicorn = pytest.importorskip("uvicorn", reason="needs miras_jax[serve]")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = pathlib.Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")
STATIC = pathlib.Path(helpers.__file__).parents[2] / "miras_jax/serving/static"
HOSTILE = "<img src=x onerror=alert(1)>"


def script(prompt, image):
  question = prompt.rsplit("USER:", 1)[-1]
  if "hostile" in question:
    return f"{HOSTILE} [OBJ]<b>it</b>[SEG]", ["left"]
  return helpers.script(question, image)


@contextlib.contextmanager
def serving():
  """Address of a server that runs in a thread."""
  service = helpers.service(script)
  config = uvicorn.Config(
    helpers.make_app(service), port=0, log_level="error", log_config=None
  )
  server = uvicorn.Server(config)
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  while not server.started:
    time.sleep(0.02)
  port = server.servers[0].sockets[0].getsockname()[1]
  yield f"http://127.0.0.1:{port}", service
  server.should_exit = True
  thread.join()


@pytest.fixture(scope="module")
def browser():
  with playwright.sync_playwright() as running:
    browser = running.chromium.launch(executable_path=str(CHROMIUM))
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
  """A page of a running server; nothing may fail in it or be asked of elsewhere."""
  with serving() as (address, service):
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    wrong, outside = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append("a dialog"))
    page.on("console", lambda message: wrong.extend(refusals(message)))
    page.on("request", lambda r: outside.append(r.url))
    page.service, page.address = service, address
    page.goto(address)
    yield page
    assert not wrong
    assert all(url.startswith((address, "blob:", "data:")) for url in outside)
    page.close()


def refusals(message):
  """What the browser complains of, but for the status of an answer."""
  told = message.type == "error" and "Failed to load resource" not in message.text
  return [message.text] if told else []


def upload(page, data=None):
  picture = {"name": "a.png", "mimeType": "image/png"}
  picture["buffer"] = data or helpers.png(240, 320)
  page.set_input_files("#file", files=[picture])
  page.wait_for_selector("#message:enabled")


def ask(page, text):
  count = page.locator("#turns li").count()
  page.fill("#message", text)
  page.press("#message", "Enter")
  page.wait_for_selector(f"#turns li:nth-child({count + 1})")
  page.wait_for_selector("#turns:not([aria-busy])")
  page.wait_for_selector("#message:enabled")


def wait_for_masks(page, count):
  page.wait_for_selector(f"#view[data-masks='{count}']")
  page.wait_for_timeout(500)  # they have faded in


def pixel(page, x, y):
  """RGB of the canvas at shares of its sides."""
  return np.array(page.evaluate(
    """([x, y]) => { const v = document.getElementById('view');
      const at = [Math.floor(x * v.width), Math.floor(y * v.height)];
      return [...v.getContext('2d').getImageData(...at, 1, 1).data].slice(0, 3); }""",
    [x, y],
  ))  # fmt: skip


def point(page, x, y):
  box = page.locator("#view").bounding_box()
  return box["x"] + x * box["width"], box["y"] + y * box["height"]


def hints(page):
  return page.service.loaded.model.hints


def test_three_turns_and_masks_over_the_picture(page):
  upload(page)
  before = pixel(page, 0.2, 0.8)
  ask(page, "Where is it?")
  ask(page, "which one")
  wait_for_masks(page, 2)
  assert np.abs(pixel(page, 0.2, 0.8) - before).max() > 20  # under the left half
  np.testing.assert_array_equal(pixel(page, 0.9, 0.9), before)  # under none
  ask(page, "Where is it?")
  assert page.locator("#turns li").count() == 3
  assert page.locator("#turns li").nth(1).locator("button.mask").all_inner_texts() == [
    "the cup", "mask 2"]  # fmt: skip


def test_a_turn_that_is_clicked_shows_its_masks_again(page):
  upload(page)
  ask(page, "which one")
  ask(page, "nothing")
  wait_for_masks(page, 1)
  page.click("#turns li:first-child .user")
  wait_for_masks(page, 2)
  page.click("#turns li:first-child button.mask")
  wait_for_masks(page, 1)
  assert "“the cup”" in page.inner_text("#mask-text")


def test_the_slider_uncovers_the_picture(page):
  upload(page)
  plain = pixel(page, 0.2, 0.8)
  ask(page, "which one")
  wait_for_masks(page, 2)
  page.evaluate("""() => { const slider = document.getElementById('compare');
    slider.value = 40; slider.dispatchEvent(new Event('input')); }""")  # fmt: skip
  page.wait_for_timeout(100)
  np.testing.assert_array_equal(pixel(page, 0.2, 0.8), plain)
  assert np.abs(pixel(page, 0.47, 0.8) - plain).max() > 20


def test_the_brush_changes_a_mask_and_the_model_gets_it(page):
  upload(page)
  ask(page, "which one")
  wait_for_masks(page, 2)
  page.click("#edit")  # the first mask: the left half
  page.mouse.move(*point(page, 0.75, 0.7))
  page.mouse.down()
  page.mouse.move(*point(page, 0.85, 0.7), steps=4)
  page.mouse.up()
  assert "the brushed mask" in page.inner_text("#meant")
  ask(page, "which one")
  mask = hints(page)["masks"][0, 0]  # on a canvas of 16, of which 12 rows are valid
  assert (mask[2:10, 1:7] > 0).all() and mask[1:4, 12].max() < 0
  assert mask[8, 12] > 0  # the stroke
  assert page.inner_text("#turns li:last-child .note") == "pointing at an edited mask"
  assert page.inner_text("#meant") == ""


def test_points_and_boxes_by_mouse(page):
  upload(page)
  page.check("input[value=inside]")
  page.mouse.click(*point(page, 0.25, 0.5))
  page.check("input[value=box]")
  page.mouse.move(*point(page, 0.1, 0.1))
  page.mouse.down()
  page.mouse.move(*point(page, 0.5, 0.5), steps=3)
  page.mouse.up()
  assert page.inner_text("#meant") == "Your next message points at a point, a box."
  ask(page, "which one")
  at, labels = hints(page)["points"]
  np.testing.assert_allclose(at[0, 0, 0], [4, 6], atol=0.6)  # on the canvas of 16
  np.testing.assert_allclose(hints(page)["boxes"][0, 0], [1.6, 1.2, 8, 6], atol=0.6)


def test_everything_by_keyboard(page):
  upload(page)
  assert page.evaluate("document.activeElement.id") == "message"
  page.keyboard.type("which one")
  page.keyboard.press("Enter")
  wait_for_masks(page, 2)
  page.check("input[value=outside]")
  page.focus("#view")
  for key in ("ArrowLeft", "Shift+ArrowUp", "Enter"):
    page.keyboard.press(key)
  assert "a point" in page.inner_text("#meant")
  page.check("input[value=box]")
  page.focus("#view")
  for key in ("Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
    page.keyboard.press(key)
  assert "a box" in page.inner_text("#meant")
  page.focus("#mean")
  page.keyboard.press("Enter")
  assert "mask 1" in page.inner_text("#meant")


def test_every_control_has_a_name(page):
  upload(page)
  ask(page, "which one")
  nameless = page.evaluate(
    """() => [...document.querySelectorAll('button, input, textarea, a, canvas')]
      .filter(e => !(e.innerText || e.labels?.length || e.ariaLabel)).map(e => e.id)"""
  )
  assert nameless == []
  assert page.get_attribute("#turns", "aria-live") == "polite"


def test_model_and_user_texts_are_never_markup(page):
  upload(page)
  ask(page, f"hostile {HOSTILE}")
  assert page.locator("#turns img, #turns b").count() == 0
  assert page.inner_text("#turns button.mask") == "<b>it</b>"
  assert HOSTILE in page.inner_text("#turns li .model")
  assert HOSTILE in page.inner_text("#turns li .user")


def test_a_mistake_is_a_line_and_the_talk_goes_on(page):
  picture = {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"}
  page.set_input_files("#file", files=[picture])
  page.wait_for_selector("#status.error")
  assert "not an image" in page.inner_text("#status")
  upload(page)
  page.fill("#message", "a" * 8100)
  page.press("#message", "Enter")
  page.wait_for_selector("#status.error:has-text('8,000')")
  assert "limit is 8,000" in page.inner_text("#status")
  assert page.locator("#turns li").count() == 0
  ask(page, "which one")
  wait_for_masks(page, 2)


def test_an_address_opens_its_conversation_again(page):
  upload(page)
  ask(page, "which one")
  page.reload()
  wait_for_masks(page, 2)
  assert page.inner_text("#turns .user") == "which one"
  page.click("#undo")
  page.wait_for_selector("#turns li", state="detached")


def test_downloads(page):
  upload(page)
  ask(page, "which one")
  wait_for_masks(page, 2)
  names = []
  for link in ("#png", "#rle", "#labelme", "#conversation"):
    with page.expect_download() as downloading:
      page.click(link)
    names.append(downloading.value.suggested_filename)
  assert names == ["0.png", "mask_0.json", "labelme.json", "conversation.json"]


def test_it_is_readable_on_a_phone(page):
  page.set_viewport_size({"width": 360, "height": 700})
  upload(page)
  ask(page, "which one")
  wide = page.evaluate("document.documentElement.scrollWidth")
  assert wide <= 360 and page.locator("#view").bounding_box()["width"] > 300
