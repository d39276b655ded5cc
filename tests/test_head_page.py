"""The page element of lesson 04: it holds the weights it was given, and answers to a mouse, a finger and the keyboard."""

import base64
import json
import re

import pytest
import torch

import picogpt

TEXT = "one </script> two\nthree <b>four"


@pytest.fixture(scope="module")
def weights():
    """Of 16 heads: head h of position t looks h positions back, or at the first."""
    T = len(TEXT)
    w = torch.zeros(16, T, T)
    for h in range(16):
        for t in range(T):
            w[h, t, max(0, t - h)] = 1
    return w


def data_of(page):
    return json.loads(re.search(r"const data = (\{.*\});", page)[1])


def test_it_holds_every_weight_of_the_lower_triangle(weights):
    data = data_of(picogpt.head_page(TEXT, weights, [0.5] * 16))
    T = len(TEXT)
    packed = base64.b64decode(data["weights"])
    assert len(packed) == 16 * T * (T + 1) // 2
    for h, t in ((0, 0), (3, 10), (15, T - 1)):
        start = h * T * (T + 1) // 2 + t * (t + 1) // 2
        assert packed[start + max(0, t - h)] == 255
        assert sum(packed[start : start + t + 1]) == 255
    assert data["text"] == TEXT
    assert data["worth"] == [0.5] * 16


def test_it_needs_nothing_from_elsewhere_and_is_the_same_each_time(weights):
    page = picogpt.head_page(TEXT, weights)
    assert page == picogpt.head_page(TEXT, weights)
    assert not re.search(r"https?:|src=|href=|import ", page)
    assert page.count("</script>") == 1, "that of the text is written otherwise"


@pytest.mark.parametrize(
    ("text", "worth", "words"), [("ab", None, "31 positions for 2 characters"), (TEXT, [1.0], "1 numbers for 16 heads")]
)
def test_what_does_not_fit_is_an_error_in_words(weights, text, worth, words):
    with pytest.raises(ValueError, match=words):
        picogpt.head_page(text, weights, worth)


def test_outside_a_notebook_it_says_where_it_works(weights, capsys):
    picogpt.show_heads(TEXT, weights)
    assert "needs a notebook" in capsys.readouterr().out


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])


def opened(browser, html, **options):
    page = browser.new_context(**options).new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.set_content(html)
    return page


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("late", [False, True], ids=["at once", "script first"])
def test_it_answers_to_mouse_and_keyboard(browser, weights, late):
    html = picogpt.head_page(TEXT, weights, [0.1] * 15 + [0.9])
    if late:  # as in JupyterLab, where the script may run before its element is in the page
        element, rest = html.split("<style>")
        page = opened(browser, "<style>" + rest)
        page.wait_for_timeout(150)
        page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", element)
    else:
        page = opened(browser, html)
    letters, said = page.locator(".picogpt-heads .text i"), page.locator(".picogpt-heads .said")
    page.locator(".picogpt-heads.on").wait_for()
    assert letters.count() == len(TEXT)
    assert page.locator(".picogpt-heads button").count() == 16
    assert "layer 1, head 7" in said.inner_text(), "it begins with the head that is worth most"
    page.locator(".picogpt-heads button").nth(2).click()
    letters.nth(20).hover()
    assert said.inner_text() == "At “r”, layer 0, head 2 takes 100 % from “t”, 2 before."
    letters.nth(20).click()  # holds it
    letters.nth(4).hover()
    assert "At “r”" in said.inner_text()
    page.keyboard.press("ArrowRight")
    assert said.inner_text() == "At “e”, layer 0, head 2 takes 100 % from “h”, 2 before."
    assert letters.nth(21).get_attribute("class") == "here"
    assert letters.nth(22).get_attribute("class") == "later"
    assert not page.errors


@pytest.mark.slow
@pytest.mark.browser
def test_a_finger_on_a_phone_and_two_of_them_on_one_page(browser, weights):
    html = picogpt.head_page(TEXT, weights)
    page = opened(browser, html + html, viewport={"width": 390, "height": 844}, has_touch=True)
    page.locator(".picogpt-heads.on").nth(1).wait_for()
    second = page.locator(".picogpt-heads").nth(1)
    second.locator(".text i").nth(12).tap()
    assert "“>”, itself" in second.locator(".said").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.errors


@pytest.mark.slow
@pytest.mark.browser
def test_without_scripts_one_sentence_stands_there(browser, weights):
    page = opened(browser, picogpt.head_page(TEXT, weights), java_script_enabled=False)
    assert "open the lesson on the course's site" in page.locator(".picogpt-heads").inner_text()
