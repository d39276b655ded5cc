"""The playground of lesson 10 in a real JupyterLab in a real browser: a slider is moved, text and bars follow."""

import contextlib
import html
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
import torch

import picogpt
import picogpt_core as pc

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LESSON = picogpt.ROOT / "notebooks" / "10_sampling.ipynb"
needs_browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason="NO BROWSER: the sliders were not tried. Install chromium (apt-get install chromium), then make test",
)


@pytest.fixture
def jupyter(tmp_path):
    """A JupyterLab with settings and a folder of its own, on the lesson's cells up to the playground. Its address."""
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


@needs_browser
def test_the_sliders_change_text_and_bars(jupyter, tmp_path):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(jupyter)
        page.locator("#jp-main-statusbar", has_text="| Idle").wait_for(timeout=90_000)  # the kernel is up
        page.locator("#jp-MainMenu .lm-MenuBar-itemLabel", has_text="Run").click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        sliders = page.locator(".jp-OutputArea .noUi-handle")
        expect(sliders).to_have_count(5, timeout=120_000)  # temperature, top-k, top-p, length, seed
        panel = page.locator(".jp-OutputArea .widget-html-content")
        expect(panel).to_have_count(2)
        bars, text = panel.nth(0), panel.nth(1)
        expect(text).to_contain_text("ROMEO:")
        assert bars.locator("tr").count() == 10

        readouts = page.locator(".jp-OutputArea .widget-readout")

        def moved(handle, key, times, value, arrived=lambda old: True):
            """Press an arrow key on a slider until it shows a value, and wait until the panel has answered and rests.

            Returns text and bars after that, text and bars before, and the seconds from the first key to the answer.
            """
            old, began = (text.inner_html(), bars.inner_html()), time.time()
            for _ in range(times):
                sliders.nth(handle).press(key)
                page.wait_for_timeout(60)
            expect(readouts.nth(handle)).to_have_text(value)
            while not arrived(old) and time.time() < began + 60:
                page.wait_for_timeout(10)
            seconds, seen, since = time.time() - began, None, time.time()
            while time.time() - since < 1.5 and time.time() < began + 90:  # at rest: nothing new for a while
                now = (text.inner_html(), bars.inner_html())
                seen, since = (now, time.time()) if now != seen else (seen, since)
                page.wait_for_timeout(50)
            return now, old, seconds

        def new_text(old):
            return text.inner_html() != old[0]

        def greedy_bars(old):
            return "1.000" in bars.locator("tr").first.inner_text()

        def two_are_left(old):
            return bars.inner_text().count("0.000") == 8

        new, old, _ = moved(0, "ArrowLeft", 16, "0.00", greedy_bars)  # temperature 0.8 down to 0
        assert greedy_bars(old), "greedy: all on the first"
        assert new[0] != old[0], "the text follows the temperature"
        assert new[1] != old[1], "and so do the bars"
        greedy = new[0]
        new, old, _ = moved(4, "ArrowRight", 1, "2")
        assert new[0] == greedy == old[0], "another seed changes nothing in greedy text"
        moved(0, "ArrowRight", 12, "0.60", new_text)
        new, old, _ = moved(1, "ArrowRight", 2, "2", two_are_left)  # top-k 0 to 2
        assert new[1] != old[1]
        assert two_are_left(old), "only two characters are left"
        new, old, seconds = moved(4, "ArrowRight", 1, "3", new_text)
        assert new[0] != old[0], "another seed, another text"
        assert seconds < 10, "the answer comes soon, on a machine that others use too"

        prompt = page.locator(".jp-OutputArea textarea")
        prompt.fill("Café")
        prompt.press("Tab")
        expect(text).to_contain_text("'é' (U+00E9) at position 3 is not among the 65 characters")
        prompt.fill("JULIET:\n")
        prompt.press("Tab")
        expect(text).to_contain_text("JULIET:")
        moved(1, "ArrowLeft", 2, "0")  # for the picture: all characters again
        page.locator(".jp-OutputArea .widget-vbox").first.scroll_into_view_if_needed()
        page.locator(".jp-OutputArea .widget-vbox").first.screenshot(path=tmp_path / "playground.png")
        assert (tmp_path / "playground.png").stat().st_size > 5000
        if os.environ.get("PICOGPT_KEEP_SCREENSHOT"):  # for README: figures/playground.png
            shutil.copy(tmp_path / "playground.png", picogpt.ROOT / "figures" / "playground.png")
        assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0, (
            "no traceback"
        )
        browser.close()


def test_an_update_of_the_playground_takes_little_time():
    """100 characters and the bars: what a reader waits for after each move."""
    saved = picogpt.load_shipped("picogpt")
    names = dict(
        pc=pc,
        html=html,
        torch=torch,
        model=saved.model,
        tokenizer=saved.tokenizer,
        names=picogpt.visible_characters(saved.tokenizer.chars),
    )
    for cell in nbformat.read(LESSON, as_version=4).cells:
        if cell.source.startswith(("def next_logits", "def settings_of", "def answer")):
            exec(cell.source, names)
    times = []  # of this process alone: others may keep the machine busy
    for seed in range(8):
        began = time.process_time()
        names["answer"]("ROMEO:\n", temperature=0.8, top_k=0, top_p=1, length=100, seed=seed)
        times.append(time.process_time() - began)
    assert min(times) < 0.25, f"{min(times):.3f} s for 100 characters: as slow as without a cache"
