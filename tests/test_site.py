"""The site: every page opened in a real browser without a network, at a desk and on a phone."""

from urllib.parse import urldefrag

import nbformat
import pytest

pytest.importorskip("myst_nb", reason="NO SPHINX: the site was not built. pip install -e '.[dev,site]', then make test")
import lessons
import pages

ALONE = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.myst_parser")]  # it uses what Sphinx 11 will remove
FORMULA = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_markdown_cell("# 99 · A formula\n\nHere $a^2$, and\n\n$$\\sum_i p_i = 1$$\n")]
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site of all lessons, and of one more that holds mathematics."""
    extra, folder = tmp_path_factory.mktemp("extra") / "99_formula.py", tmp_path_factory.mktemp("site")
    nbformat.write(FORMULA, extra.with_suffix(".ipynb"))
    scripts = [*lessons.scripts(), extra]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lessons, "scripts", lambda: scripts)
        pages.write(folder)
    return folder


@pytest.fixture(scope="module")
def address(site, serving):
    with serving(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=chromium, args=ALONE)


@pytest.fixture
def page(browser, address):
    """A page at phone width that reaches nothing but the site. Errors are in page.errors."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.errors = []
    page.route(lambda url: not url.startswith((address, "file:", "data:")), lambda route: route.abort())
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("http", "ws")) and page.requests.append(request.url))
    page.requests = []
    yield page
    assert not [url for url in page.requests if not url.startswith(address)], "the site needs nothing from elsewhere"
    assert not page.errors
    page.close()


def html_files(site):
    return sorted(file.relative_to(site).as_posix() for file in site.rglob("*.html"))


def test_every_lesson_has_a_page_and_the_first_page_leads_to_it(site):
    index = (site / "index.html").read_text()
    for script in lessons.scripts():
        assert (site / f"{script.stem}.html").exists()
        assert f'href="{script.stem}.html"' in index


@pytest.mark.browser
def test_every_page_shows_its_figures_and_fits_phone_and_desk(site, address, page):
    for name in html_files(site):
        page.goto(address + name)
        page.evaluate("document.querySelectorAll('img').forEach(img => img.loading = 'eager')")
        page.wait_for_function("[...document.images].every(img => img.complete)")
        broken = page.evaluate("[...document.images].filter(img => img.naturalWidth == 0).map(img => img.src)")
        assert not broken, name
        silent = page.evaluate("[...document.images].filter(i => i.alt.length < 4 || i.alt.includes('.png')).map(i => i.src)")
        assert not silent, f"{name}: a picture without a description for screen readers"
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = page.evaluate("[document.documentElement, ...document.querySelectorAll('.content')].map(e => e.scrollWidth)")
        assert max(wide) <= 390, f"{name} scrolls sideways"  # furo hides what the page cuts off, and .content scrolls
        stored = lessons.NOTEBOOKS / f"{name.removesuffix('.html')}.ipynb"
        if stored.exists():
            cells = nbformat.read(stored, as_version=4).cells
            figures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", ()))
            figures += sum(cell.source.count("](../figures/") for cell in cells if cell.cell_type == "markdown")
            assert page.locator("article img").count() == figures, f"{name}: each stored figure is shown"
            page.set_viewport_size({"width": 1280, "height": 800})
            cut = page.evaluate("[...document.querySelectorAll('.cell_input pre')].some(e => e.scrollWidth > e.clientWidth)")
            assert not cut, f"{name}: at a desk each line of code is seen whole"
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280, f"{name} scrolls sideways at a desk"
            page.set_viewport_size({"width": 390, "height": 844})


@pytest.mark.browser
def test_every_internal_link_leads_somewhere(site, address, page):
    ids, links = {}, []
    for name in html_files(site):
        page.goto(address + name)
        ids[address + name] = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
        links += [(name, link) for link in page.evaluate("[...document.links].map(a => a.href)")]
    for name, link in links:
        target, anchor = urldefrag(link)
        if target.startswith(address):
            assert target in ids or (site / target.removeprefix(address)).is_file(), f"{name} links {link}"
            assert not anchor or anchor in ids[target], f"{name} links {link}"
    assert sum(link.startswith(address) for _, link in links) > 100


@pytest.mark.browser
def test_solutions_are_folded_and_exercises_are_not(address, page):
    for script in lessons.scripts():
        page.goto(f"{address}{script.stem}.html")
        solutions, exercises = page.locator(".tag_solution"), page.locator(".tag_exercise pre")
        tags = [cell.metadata.get("tags", ()) for cell in lessons.from_script(script).cells]
        assert solutions.count() == sum("solution" in each for each in tags)
        assert page.locator(".tag_exercise").count() == sum("exercise" in each for each in tags)
        assert all(code.is_visible() for code in exercises.all())
        assert not any(code.is_visible() for code in solutions.locator("pre").all())
        solutions.first.locator("summary").click()
        assert solutions.first.locator("pre").first.is_visible()


@pytest.mark.browser
@pytest.mark.parametrize("where", ["server", "file"])
def test_the_search_finds_a_word(site, address, page, where):
    (sampling,) = lessons.NOTEBOOKS.glob("*_sampling.ipynb")
    page.goto((address if where == "server" else site.as_uri() + "/") + "search.html?q=nucleus")
    page.locator("#search-results a", has_text=f"{sampling.stem[:2]} · Sampling").first.wait_for(timeout=20_000)
    page.goto((address if where == "server" else site.as_uri() + "/") + "search.html?q=zzzz")
    page.locator("#search-results", has_text="did not match any documents").wait_for(timeout=20_000)


@pytest.mark.browser
def test_mathematics_is_drawn_without_a_script(address, page):
    page.goto(f"{address}99_formula.html")
    assert page.locator("article math").count() == 2
    assert page.locator("article math msup").text_content().split() == ["a", "2"]


@pytest.mark.browser
def test_the_playground_stands_on_the_first_page_and_in_its_lessons(site, browser):
    """From a file, and without a kernel: it begins when the reader asks for it."""
    marks = {script.stem: pages.PLAYGROUND.findall(script.read_text()) for script in lessons.scripts()}
    places = {stem: parts[0] for stem, parts in marks.items() if parts} | {"index": "write heads"}
    assert {stem[:2]: parts for stem, parts in places.items()} == {
        "00": "write",
        "03": "mask",
        "04": "heads",
        "10": "write",
        "in": "write heads",
    }
    for stem, parts in places.items():
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_default_timeout(300_000)
        page.errors, page.loaded = [], []
        page.on("pageerror", lambda error, page=page: page.errors.append(str(error)))
        page.on("request", lambda request, page=page: page.loaded.append(request.url))
        page.goto((site / f"{stem}.html").as_uri())
        assert not [url for url in page.loaded if "/weights/" in url], "nobody downloads a model by reading on"
        page.get_by_role("button", name="Start it here").click()
        page.locator(".picogpt.ready").wait_for()
        for part in parts.split():
            inside = {"write": "input[type=range]", "heads": ".tiles button", "mask": "input[type=radio]"}[part]
            assert page.locator(f"[data-playground] {inside}").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not page.errors
        assert all(url.startswith(("file:", "data:")) for url in page.loaded)
        page.close()


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path, monkeypatch):
    lesson = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 98 · x\n\n[gone](97_gone.ipynb)")])
    nbformat.write(lesson, tmp_path / "98_x.ipynb")
    monkeypatch.setattr(lessons, "scripts", lambda: [tmp_path / "98_x.py"])
    monkeypatch.setattr(pages, "first_page", lambda: "# x\n\n```{toctree}\n98_x\n```\n")
    with pytest.raises(RuntimeError, match="97_gone"):
        pages.write(tmp_path / "site")
