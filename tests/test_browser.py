"""The playground of lesson 10 in a real JupyterLab in a real browser: a slider is moved, text and bars follow."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from typing import NamedTuple

import nbformat
import pytest

import picogpt

LESSON = picogpt.ROOT / "notebooks" / "10_sampling.ipynb"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """A JupyterLab with settings and a folder of its own, on the lesson's cells up to the playground. Its address."""
    tmp_path = tmp_path_factory.mktemp("jupyter")
    notebook = nbformat.read(LESSON, as_version=4)
    last = next(i for i, cell in enumerate(notebook.cells) if "display(playground())" in cell.source)
    notebook.cells = [cell for cell in notebook.cells[: last + 1] if cell.cell_type == "code"]
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / "play.ipynb")  # a copy, for JupyterLab saves
    quiet = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')  # no question about news over the picture
    token = secrets.token_hex(8)
    private = {f"JUPYTER_{what}_DIR": str(tmp_path / what) for what in ("CONFIG", "DATA", "RUNTIME")}
    private |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "spaces")}
    options = ["--ServerApp.port=0", f"--IdentityProvider.token={token}", "--no-browser", "--allow-root"]
    line = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={tmp_path}"]
    server = subprocess.Popen(line, env=os.environ | private, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(StopIteration, OSError, ValueError):  # not there yet, or half written
                info = json.loads(next((tmp_path / "RUNTIME").glob("jpserver-*.json")).read_text())
                urllib.request.urlopen(f"{info['url']}api?token={token}", timeout=5)
                break
            time.sleep(0.2)
        yield f"{info['url']}lab/tree/play.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(20)


class Shown(NamedTuple):
    """What a reader sees."""

    text: str
    bars: list[str]  # of the ten likeliest characters: each with its probability

    def is_greedy(self) -> bool:
        return "1.000" in self.bars[0]

    def possible(self) -> int:
        """How many of the ten characters can be drawn."""
        return sum("0.000" not in bar for bar in self.bars)


class Panel:
    """The playground on an open page: sliders, a prompt, the bars of the next character and the text."""

    def __init__(self, page):
        self.page, cell = page, page.locator(".jp-OutputArea")
        self.handles, self.readouts = cell.locator(".noUi-handle"), cell.locator(".widget-readout")
        self.prompt, self.answers = cell.locator("textarea"), cell.locator(".widget-html-content")
        self.box, self.errors = cell.locator(".widget-vbox").first, page.locator("[data-mime-type$=stderr]")

    def shown(self) -> Shown:
        return Shown(self.answers.nth(1).inner_text(), self.answers.nth(0).locator("tr").all_inner_texts())

    def wait_until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"the panel stays at {self.readouts.all_inner_texts()}, {self.shown()}"
            self.page.wait_for_timeout(50)

    def at_rest(self) -> Shown:
        """Wait until nothing has changed for a while, and return what is there."""
        seen, since = self.shown(), time.monotonic()
        while time.monotonic() < since + 1.5:
            self.page.wait_for_timeout(50)
            if (now := self.shown()) != seen:
                seen, since = now, time.monotonic()
        return seen

    def move(self, slider: str, key: str, presses: int, value: str, until=lambda before, now: True):
        """Press an arrow key on a slider, which then reads `value`, and wait for the answer that `until` describes.

        Return what was shown before and after, and the seconds from the first key to the answer.
        """
        number = ("temperature", "top_k", "top_p", "length", "seed").index(slider)
        before, began = self.shown(), time.monotonic()
        for _ in range(presses):
            self.handles.nth(number).press(key)
            self.page.wait_for_timeout(60)
        self.wait_until(lambda: self.readouts.nth(number).inner_text() == value)
        self.wait_until(lambda: until(before, self.shown()))
        seconds = time.monotonic() - began
        return before, self.at_rest(), seconds

    def type(self, prompt: str):
        self.prompt.fill(prompt)
        self.prompt.press("Tab")


@pytest.fixture(scope="module")
def panel(chromium, jupyter):
    """The playground after Run All Cells. No cell may have printed a traceback, at the end either."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(jupyter)
        page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=90_000)  # the kernel is up
        page.locator("#jp-MainMenu .lm-MenuBar-itemLabel", has_text="Run").click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        panel = Panel(page)
        panel.wait_until(lambda: panel.answers.count() == 2 and "ROMEO:" in panel.shown().text, seconds=120)
        yield panel
        assert panel.errors.count() == 0
        browser.close()


def another_text(before, now):
    return now.text != before.text


@pytest.mark.slow
@pytest.mark.browser
def test_the_sliders_change_text_and_bars(panel):
    assert panel.handles.count() == 5
    assert len(panel.shown().bars) == 10

    before, greedy, _ = panel.move("temperature", "ArrowLeft", 16, "0.00", until=lambda before, now: now.is_greedy())
    assert another_text(before, greedy), "the text follows the temperature"
    assert not before.is_greedy(), "and so do the bars"

    before, after, _ = panel.move("seed", "ArrowRight", 1, "2")
    assert after.text == before.text == greedy.text, "another seed changes nothing in greedy text"

    panel.move("temperature", "ArrowRight", 12, "0.60", until=another_text)
    before, after, _ = panel.move("top_k", "ArrowRight", 2, "2", until=lambda before, now: now.possible() == 2)
    assert before.possible() > 2, "top-k has cut the others"

    *_, seconds = panel.move("seed", "ArrowRight", 1, "3", until=another_text)
    assert seconds < 10, "the answer comes soon, on a machine that others use too"


@pytest.mark.slow
@pytest.mark.browser
def test_the_text_stands_beside_the_bars_and_on_a_narrow_page_below_them(panel):
    def places():
        return (panel.answers.nth(i).bounding_box() for i in (0, 1))

    bars, text = places()
    assert text["x"] >= bars["x"] + bars["width"]
    assert panel.page.locator(".slider-container").first.bounding_box()["width"] > 300, "wide enough to drag"
    panel.page.set_viewport_size({"width": 760, "height": 900})

    def below():
        bars, text = places()
        return text["y"] >= bars["y"] + bars["height"]

    panel.wait_until(below)
    panel.page.set_viewport_size({"width": 1200, "height": 900})
    panel.wait_until(lambda: not below())


@pytest.mark.slow
@pytest.mark.browser
def test_a_prompt_is_continued_and_an_unknown_character_named(panel, tmp_path):
    panel.type("Café")
    panel.wait_until(lambda: "'é' (U+00E9) at position 3 is not among the 65 characters" in panel.shown().text)
    panel.type("JULIET:\n")
    panel.wait_until(lambda: panel.shown().text.startswith("JULIET:"))
    if panel.shown().possible() == 2:  # for the picture: all characters again
        panel.move("top_k", "ArrowLeft", 2, "0")
    panel.box.scroll_into_view_if_needed()
    panel.box.screenshot(path=tmp_path / "playground.png")
    assert (tmp_path / "playground.png").stat().st_size > 5000
    if os.environ.get("PICOGPT_KEEP_SCREENSHOT"):  # for README: figures/playground.png
        shutil.copy(tmp_path / "playground.png", picogpt.ROOT / "figures" / "playground.png")


def test_an_update_of_the_playground_takes_little_time():
    """100 characters and the bars: what a reader waits for after each move."""
    names: dict = {}
    for cell in nbformat.read(LESSON, as_version=4).cells:
        defined = any(name in cell.source for name in ("def next_logits(", "def settings_of(", "def answer("))
        if defined or "setup" in cell.metadata.get("tags", ()):
            exec(cell.source, names)
    times = []  # of this process alone: others may keep the machine busy
    for seed in range(8):
        began = time.process_time()
        names["answer"]("ROMEO:\n", temperature=0.8, top_k=0, top_p=1, length=100, seed=seed)
        times.append(time.process_time() - began)
    assert min(times) < 0.25, f"{min(times):.3f} s for 100 characters: as slow as without a cache"


def test_the_last_move_counts_when_two_moves_are_answered_in_two_threads():
    """ipykernel 7 hands a slider's first message to the main thread, and those after it to another."""
    names: dict = {}
    for cell in nbformat.read(LESSON, as_version=4).cells:
        if "def sliders(" in cell.source or "def playground(" in cell.source or "setup" in cell.metadata.get("tags", ()):
            exec(cell.source, names)
    begun = threading.Event()

    def answer(prompt, top_k, **_):
        if top_k == 1:  # the first move's answer takes longer than the next one's
            begun.set()
            time.sleep(0.5)
        return f"cut at {top_k}", ""

    async def move_again(slider):
        slider.value = 2
        await asyncio.sleep(0.3)

    async def move():
        above, below = names["playground"]().children
        slider = next(control for control in above.children if control.description == "top-k")
        slider.value = 1
        await asyncio.to_thread(lambda: begun.wait(10) and asyncio.run(move_again(slider)))
        await asyncio.sleep(0.3)
        return below.children[1].value

    names["answer"] = answer
    with concurrent.futures.ThreadPoolExecutor() as pool:  # this thread's loop may be Playwright's
        assert pool.submit(asyncio.run, move()).result() == "cut at 2"


@pytest.fixture
def lesson_00() -> dict:
    """What the prompt box of lesson 00 needs, by name."""
    names: dict = {}
    for cell in nbformat.read(LESSON.with_name("00_start_here.ipynb"), as_version=4).cells:
        here = cell.source.startswith(("prompt = ", "@torch.no_grad()\ndef next_probs", "def answer", "def prompt_box"))
        if here or "setup" in cell.metadata.get("tags", ()):
            exec(cell.source, names)
    return names


def test_the_prompt_box_of_lesson_00_shows_no_answer_to_an_older_prompt(lesson_00):
    """The button's answer is still being written in one thread when a prompt comes in another."""
    begun, go_on = threading.Event(), threading.Event()
    (words, again), shown = (box := lesson_00["prompt_box"]()).children[0].children, box.children[1]

    def answer(prompt, seed):
        if prompt != "Juliet":
            begun.set()
            go_on.wait(10)
        return f"{prompt} spoke"

    lesson_00["answer"] = answer
    thread = threading.Thread(target=again.click)
    thread.start()
    assert begun.wait(10)
    words.value = "Juliet"
    go_on.set()
    thread.join()
    assert shown.value == "Juliet spoke"


def test_the_prompt_box_of_lesson_00_answers_each_prompt_in_its_own_way(lesson_00):
    """Without a kernel: typing, the button, and a character that the model does not know."""
    (words, again), shown = (box := lesson_00["prompt_box"]()).children[0].children, box.children[1]
    assert lesson_00["prompt"] in shown.value
    assert shown.value.count("<tr>") == 8
    words.value = "ROMEO <3"
    assert "'<' (U+003C) at position 6 is not among" not in shown.value, "what the model does not know is named, escaped"
    assert "&#x27;&lt;&#x27; (U+003C) at position 6 is not among" in shown.value
    words.value = ""
    assert "the prompt is empty" in shown.value
    words.value = "Zounds, Zoe"  # which the model will not write itself
    first = shown.value
    again.click()
    assert shown.value != first, "another text"
    assert shown.value.count("Zounds, Zoe") == first.count("Zounds, Zoe") == 1
