"""The playground: its JavaScript against PyTorch, in Node and in Chromium, and its page in a real browser.

Nothing here knows a number or a line of the shipped models: they may be trained anew.
"""

import json
import re
import shutil
import subprocess

import pytest
import torch

import picogpt
import picogpt_core as pc
import playground

WINDOWS = 200  # of validation text: the first few as long as the model can read
# What JavaScript is asked. `jobs` is a list of [function, arguments]; the answer is a list of results.
ANSWERS = """async (jobs) => {
  const shipped = {};
  for (const name of Object.keys(PICOGPT_WEIGHTS)) {
    if (JSON.stringify(jobs).includes(`"${name}"`)) shipped[name] = await PicoGPT.load_shipped(name);
  }
  const flat = (array) => Array.from(array, (number) => Math.round(number * 1e6) / 1e6);
  const said = (work) => { try { work(); return "nothing"; } catch (error) { return error.message; } };
  const ask = {
    logits: (name, windows) => windows.map((ids) => flat(shipped[name].model.forward(ids))),
    evaluate: (name, ids) => PicoGPT.evaluate(shipped[name].model, ids),
    attention: (name, ids) => PicoGPT.attention_weights(shipped[name].model, ids).map((weights) => {
      const block = shipped[name].model.config.block_size, T = ids.length;
      return flat(weights.filter((_, i) => i % block < T && Math.floor(i / block) % block < T)); // (nh, T, T)
    }),
    probe: (name, ids, position) => Array.from(PicoGPT.moved_by_the_future(shipped[name].model, ids, position)),
    probs: (logits, settings) => Array.from(PicoGPT.next_token_probs(logits, new PicoGPT.SampleConfig(settings))),
    text: (name, prompt, settings) => {
      const { model, tokenizer } = shipped[name];
      const drawn = [...PicoGPT.generate(model, tokenizer.encode(prompt), new PicoGPT.SampleConfig(settings))];
      return tokenizer.decode(drawn.map(({ id }) => id));
    },
    uncached: (name, prompt, settings) => {
      const { model, tokenizer } = shipped[name];
      const drawn = [...PicoGPT.generate(model, tokenizer.encode(prompt), new PicoGPT.SampleConfig(settings), null)];
      return tokenizer.decode(drawn.map(({ id }) => id));
    },
    draws: (probs, n, seed) => {
      const generator = PicoGPT.Generator(seed), counts = probs.map(() => 0);
      for (let i = 0; i < n; i++) counts[PicoGPT.sample_token(probs, generator)]++;
      return counts;
    },
    gelu: (numbers) => numbers.map(PicoGPT.gelu),
    errors: (name) => {
      const { model, tokenizer } = shipped[name], block = model.config.block_size;
      return [
        said(() => tokenizer.encode("Café")),
        said(() => PicoGPT.generate(model, [], new PicoGPT.SampleConfig()).next()),
        said(() => PicoGPT.generate(model, [65], new PicoGPT.SampleConfig()).next()),
        said(() => model.forward(new Array(block + 1).fill(0))),
        said(() => new PicoGPT.SampleConfig({ temperature: -1 })),
        said(() => new PicoGPT.SampleConfig({ top_k: 0 })),
        said(() => new PicoGPT.ModelConfig({ ...model.config, norm: "post" })),
        said(() => PicoGPT.evaluate(model, [1])),
      ];
    },
  };
  return jobs.map(([what, ...inputs]) => ask[what](...inputs));
}"""


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A copy of web/ with the weights in it, as a reader has it."""
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(playground.WEB, folder, ignore=shutil.ignore_patterns("weights"))
    playground.write_weights(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture(scope="module", params=["node", pytest.param("chromium", marks=pytest.mark.browser)])
def ask(request, web):
    """A function that gives jobs to JavaScript and returns the answers. In Node, where it is there, and in Chromium."""
    if request.param == "node":
        node = shutil.which("node") or pytest.skip("NO NODE: the playground's JavaScript was tried in the browser only")
        files = [web / "picogpt.js", *sorted((web / "weights").glob("*.js"))]
        loaded = "".join(f"require({json.dumps(str(file))});" for file in files)
        program = (
            f"{loaded} const PicoGPT = require({json.dumps(str(files[0]))});"
            f"({ANSWERS})(JSON.parse(require('fs').readFileSync(0))).then((all) => console.log(JSON.stringify(all)));"
        )

        def in_node(*jobs):
            done = subprocess.run([node, "-e", program], input=json.dumps(jobs), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield in_node
        return
    page = request.getfixturevalue("browser").new_page()
    page.goto("about:blank")
    for file in (web / "picogpt.js", *sorted((web / "weights").glob("*.js"))):
        page.add_script_tag(path=file)
    yield lambda *jobs: page.evaluate(ANSWERS, jobs)
    page.close()


def shipped(name):
    """A model as the browser gets it: the small pair with fewer binary digits."""
    model = picogpt.load_shipped(name).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(playground.rounded(parameter.numpy(), playground.SHIPPED[name]).astype("f4")))
    return model


@pytest.fixture(scope="module")
def windows(shakespeare):
    """200 windows spread over the validation text: two as long as the model can read, the others of 6 characters."""
    starts = torch.linspace(0, len(shakespeare.val) - 257, WINDOWS).long().tolist()
    return [shakespeare.val[start : start + (256 if i % 100 == 0 else 6)].tolist() for i, start in enumerate(starts)]


@pytest.mark.slow
@torch.no_grad()
def test_the_logits_are_those_of_pytorch(ask, windows, request):
    if "node" in request.node.name:  # the same engine as Chromium's: a few will do
        windows = windows[::10]
    small = [window[:128] for window in windows[::35]]
    answers = ask(["logits", "picogpt", windows], ["logits", "honest", small], ["logits", "unmasked", small])
    for name, some, answer in zip(("picogpt", "honest", "unmasked"), (windows, small, small), answers, strict=True):
        model = shipped(name)
        for ids, logits in zip(some, answer, strict=True):
            right = model(torch.tensor([ids]))[0]  # (T, V)
            assert (torch.tensor(logits).view_as(right) - right).abs().max() < 1e-3, name


@pytest.mark.slow
def test_losses_weights_and_the_probe_are_those_of_pytorch(ask, shakespeare):
    text = shakespeare.val[5000:6000]
    ids = text[:40]
    names = ("honest", "unmasked")
    losses = ask(*(["evaluate", name, text.tolist()] for name in names))
    for name, loss in zip(names, losses, strict=True):
        assert loss == pytest.approx(pc.evaluate(picogpt.load_shipped(name).model, text), abs=1e-3), "the pair is rounded"
    for name, layers in zip(names, ask(*(["attention", name, ids.tolist()] for name in names)), strict=True):
        model = shipped(name)
        for answer, right in zip(layers, pc.attention_weights(model, ids[None]), strict=True):
            assert torch.allclose(torch.tensor(answer).view_as(right[0]), right[0], atol=1e-4)  # (nh, T, T)
    honest, unmasked = (torch.tensor(moved) for moved in ask(*(["probe", name, ids.tolist(), 30] for name in names)))
    assert not honest[:30].any()
    assert (unmasked[:30] > 1e-3).all()
    for name, moved in zip(names, (honest, unmasked), strict=True):
        assert torch.allclose(moved, pc.moved_by_the_future(shipped(name), ids[None], 30), atol=2e-3)


LADDER = [
    dict(temperature=t, top_k=k, top_p=p) for t in (0, 1e-30, 0.5, 1.7) for k in (None, 1, 5, 99) for p in (None, 0.05, 0.9, 1)
]


def test_the_ladder_is_that_of_the_core_and_of_lesson_10(ask):
    generator = torch.Generator().manual_seed(0)
    rows = [2 * torch.randn(65, generator=generator) for _ in range(4)]
    rows += [torch.randn(65, generator=generator).round(), torch.zeros(65)]  # with many equal logits
    jobs = [(row, settings) for row in rows for settings in LADDER]
    answers = ask(*(["probs", row.tolist(), settings] for row, settings in jobs))
    for (row, settings), answer in zip(jobs, answers, strict=True):
        right = pc.next_token_probs(row, pc.SampleConfig(**settings))
        ours = torch.tensor(answer, dtype=torch.float32)
        if settings["top_p"] in (None, 1) or settings["temperature"] == 0:
            assert torch.allclose(ours, right, atol=1e-4), settings
            assert torch.equal(ours == 0, right == 0), f"{settings}: the same tokens are cut, with ties"
        else:  # among equals any may be cut
            assert torch.allclose(ours.sort().values, right.sort().values, atol=1e-4), settings
    cuts = [(share, how) for share in (0.01, 0.1, 0.5, 1) for how in ({}, dict(temperature=0.7, top_k=20, top_p=0.95))]
    answers = ask(*(["probs", rows[0].tolist(), dict(min_p=share) | how] for share, how in cuts))
    for (share, how), answer in zip(cuts, answers, strict=True):  # what the core's own ladder leaves, cut as in lesson 10
        probs = pc.next_token_probs(rows[0], pc.SampleConfig(**how))
        left = probs.masked_fill(probs < share * probs.max(), 0)
        assert torch.allclose(torch.tensor(answer, dtype=torch.float32), left / left.sum(), atol=1e-4)


def test_it_draws_as_likely_as_the_probabilities_and_a_seed_repeats(ask):
    probs = torch.tensor([0.5, 0, 0.2, 0.299, 0.001, 0])
    first, again, other = ask(*(["draws", probs.tolist(), 20_000, seed] for seed in (1, 1, 2)))
    assert first == again != other
    errors = (probs * (1 - probs) / 20_000).sqrt().clamp(min=1e-9)  # standard errors
    assert ((torch.tensor(first) / 20_000 - probs).abs() / errors).max() < 5
    numbers = torch.linspace(-9, 9, 1001)
    (answer,) = ask(["gelu", numbers.tolist()])
    assert torch.allclose(torch.tensor(answer), torch.nn.functional.gelu(numbers), atol=1e-6)


@pytest.mark.slow
def test_its_cache_changes_nothing_and_the_window_slides(ask):
    settings = dict(max_new_tokens=6, temperature=0.9, seed=3)
    jobs = [[how, "honest", "\n" * 125, settings] for how in ("text", "uncached")]  # past block_size=128
    text, uncached, twin = ask(*jobs, ["text", "unmasked", "ROMEO", settings])
    assert text == uncached
    assert len(text) == len(twin) == 6


def test_what_makes_no_sense_is_said_in_words(ask):
    (said,) = ask(["errors", "picogpt"])
    wanted = ["“é” (U+00E9) at position 3 is not among the 65 characters", "the prompt is empty", "id 65 is not between 0 and"]
    wanted += ["a window of 257 tokens: this model takes 1 to block_size=256", "temperature=-1 must be a finite number"]
    wanted += ["top_k=0 must be an integer of at least 1", 'norm="post" is not written in picogpt.js', "nothing to predict"]
    for words, sentence in zip(wanted, said, strict=True):
        assert words in sentence


@pytest.mark.slow
@pytest.mark.browser
def test_the_greedy_text_of_300_characters_is_that_of_the_core(browser, web):
    """With the small model also past its block_size, where the window slides. (picogpt's 300: benchmarks/playground_loss.py)"""
    page = browser.new_page()
    for file in ("picogpt.js", *(f"weights/{name}.js" for name in playground.SHIPPED)):
        page.add_script_tag(path=web / file)
    for name, n in (("picogpt", 255), ("honest", 300)):
        tokenizer = picogpt.load_shipped(name).tokenizer
        right = picogpt.generate_text(shipped(name), tokenizer, "\n", pc.SampleConfig(n, temperature=0))
        (text,) = page.evaluate(ANSWERS, [["text", name, "\n", dict(max_new_tokens=n, temperature=0)]])
        assert "\n" + text == right, name
    page.close()


def test_on_the_whole_validation_text_the_stored_losses_agree():
    rows = picogpt.load_rows(picogpt.DATA / "runs" / "playground.csv")
    assert [row["model"] for row in rows] == list(playground.SHIPPED)
    for row in rows:
        assert abs(row["loss_javascript"] - row["loss_pytorch"]) < 1e-3, row["model"]
        assert row["logits_apart"] < 1e-3, "on 200 whole windows"
        assert row["greedy_same"] == 300


# ----- the page


@pytest.fixture(scope="module")
def server(web, serving):
    with serving(web) as address:
        yield address + "playground.html"


@pytest.fixture(scope="module")
def opened(browser, web):
    """A function that opens the page, or another address. What went wrong on any page, and what any asked for, fails here."""
    pages, address = [], (web / "playground.html").as_uri()

    def open_page(address=address, hash="length=40", ready=".write.ready", **options):
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(300_000)  # milliseconds, on a machine that others use too
        page.errors, page.requests = [], []
        page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(f"{address}#{hash}")
        page.locator(ready).wait_for()
        pages.append((page, address.rsplit("/", 1)[0]))
        return page

    yield open_page
    for page, folder in pages:
        assert not page.errors
        assert not [url for url in page.requests if not url.startswith((f"{folder}/", "data:"))], "nothing from elsewhere"


def written(page):
    """Wait until the model has written, and return the text without the signs for line breaks."""
    page.locator(".write button", has_text="Stop").wait_for(state="hidden")
    return page.evaluate("[...document.querySelectorAll('.write .text span')].map(s => s.textContent).join('')").replace(
        "↵", "\n"
    )


def move(page, slider, value):
    """Move a slider of the first piece, as a hand would, and return the text that comes out."""
    names = ("temperature", "top_k", "top_p", "min_p", "length", "seed")
    handle = page.locator(".write input[type=range]").nth(names.index(slider))
    handle.evaluate("(it, to) => { it.value = to; it.dispatchEvent(new Event('input')); }", value)
    return written(page)


def bars(page):
    """What the bars say: {character: probability in percent}. A cut character has 0."""
    rows = page.locator(".write .bars tbody tr:not(.rest)").evaluate_all(
        "rows => rows.map(row => [row.querySelector('th').firstChild.textContent, row.cells[2].textContent])"
    )
    return {name: 0.0 if said == "cut" else float(re.search(r"[\d.]+", said)[0]) for name, said in rows}


@pytest.fixture(scope="module")
def page(opened):
    """The page at a desk, shared by tests that leave it in working order."""
    return opened(viewport={"width": 1280, "height": 900})


def test_everything_is_below_8_mb(web):
    assert sum(file.stat().st_size for file in web.rglob("*") if file.is_file()) < 8e6


def test_the_passage_is_of_the_validation_text(shakespeare):
    code = (playground.WEB / "playground.js").read_text()
    lines = re.findall(r'^    ("[A-Z]+:.*") ?[+;]?', code[code.index("const PASSAGE") :], re.MULTILINE)
    passage = "".join(map(json.loads, "".join(lines).replace('""', '"\n"').splitlines()))
    assert len(passage) > 2 * 128
    assert passage in shakespeare.tokenizer.decode(shakespeare.val)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(
    ("where", "width", "scheme"), [("file", 390, "dark"), ("server", 1280, "light")], ids=["file, phone", "server, desk"]
)
def test_it_works_from_a_file_and_from_a_server_on_a_phone_and_at_a_desk(opened, server, where, width, scheme):
    where = {} if where == "file" else {"address": server}
    page = opened(viewport={"width": width, "height": 844}, color_scheme=scheme, **where)
    assert len(written(page)) == len("ROMEO:\n") + 40
    page.locator("[data-playground=mask]").scroll_into_view_if_needed()
    page.locator(".mask .said", has_text="has become").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    small = page.evaluate("[...document.querySelectorAll('.buttons button, .choice label')].map(e => e.offsetHeight)")
    assert min(height for height in small if height) >= 30, "a finger must hit it"
    nameless = page.evaluate(
        "[...document.querySelectorAll('.picogpt :is(input, textarea, button, [tabindex])')].filter(e => "
        "!(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert not nameless, "without a name for screen readers"
    shade = page.evaluate("getComputedStyle(document.querySelector('.text')).backgroundColor.match(/\\d+/)[0]")
    assert (int(shade) < 60) == (scheme == "dark")
    page.close()


@pytest.mark.slow
@pytest.mark.browser
@torch.no_grad()
def test_the_sliders_change_text_and_bars_as_the_core_would(page):
    model, tokenizer = picogpt.load_shipped("picogpt")[:2]
    prompt = "ROMEO:\n"
    logits = model(torch.tensor([tokenizer.encode(prompt)]))[0, -1]  # (V,)
    before = written(page)
    for slider, value, settings in (
        ("temperature", 1.5, dict(temperature=1.5)),
        ("top_k", 3, dict(temperature=1.5, top_k=3)),
        ("top_p", 0.5, dict(temperature=1.5, top_k=3, top_p=0.5)),
    ):
        text = move(page, slider, value)
        assert text.startswith(prompt)
        probs = pc.next_token_probs(logits, pc.SampleConfig(**settings))
        for name, percent in bars(page).items():
            right = 100 * probs[tokenizer.encode({"↵": "\n", "␣": " "}.get(name, name))[0]].item()
            assert percent == pytest.approx(right, abs=0.51 if right > 9 else 0.11), (settings, name)
    assert text != before
    greedy = move(page, "temperature", 0)
    assert greedy == picogpt.generate_text(model, tokenizer, prompt, pc.SampleConfig(40, temperature=0))
    assert move(page, "seed", 9) == greedy, "another seed changes nothing in greedy text"
    page.get_by_text("One character more").click()
    assert len(written(page)) == len(greedy) + 1
    page.get_by_text("Back to the prompt").click()
    assert written(page) == prompt
    for slider, value in (("top_k", 0), ("top_p", 1), ("seed", 1), ("temperature", 0.8)):
        text = move(page, slider, value)
    assert text == before, "the same settings, the same text"


@pytest.mark.slow
@pytest.mark.browser
@torch.no_grad()
def test_the_heads_are_those_of_pytorch(page):
    model, tokenizer = picogpt.load_shipped("picogpt")[:2]
    text = written(page)
    ids = torch.tensor([tokenizer.encode(text)])
    weights = torch.cat([layer[0] for layer in pc.attention_weights(model, ids)])  # (heads, T, T)
    share = weights.diagonal(-1, 1, 2)[:, 2:].mean(dim=1)  # (heads,): on the character before, from position 3 on
    layer, head = divmod(int(share.argmax()), model.config.n_head)
    said = page.locator(".jobs").inner_text()
    assert f"layer {layer}, head {head} looks most at the previous character ({share.max():.0%}".replace("%", " %") in said
    page.locator(".tiles button").nth(layer * model.config.n_head + head).click()
    page.locator(".write .text span").nth(30).click()
    most = int(weights[layer * model.config.n_head + head, 30].argmax())
    shown = {"\n": "↵", " ": "␣"}.get(text[most], text[most])
    said = page.locator(".look .said").inner_text()
    assert f"takes {weights[layer * model.config.n_head + head, 30].max():.0%} from “{shown}”".replace("%", " %") in said
    colours = "[...document.querySelectorAll('.write .text span')].map(letter => letter.style.backgroundColor)"
    shades = [float((re.search(r"([\d.]+)\)$", colour) or [0, 0])[1]) for colour in page.evaluate(colours)]
    assert max(range(31), key=shades.__getitem__) == most
    page.get_by_text("Colour the text by surprise again").click()
    nats = -model(ids)[0, :-1].log_softmax(dim=1).gather(1, ids[0, 1:, None])[:, 0]  # (T - 1,)
    bold = page.evaluate("[...document.querySelectorAll('.write .text span')].map(s => s.classList.contains('odd'))")
    sure = (nats - torch.tensor(10.0).log()).abs() > 1e-3
    assert torch.equal(torch.tensor(bold[1:])[sure], (nats > torch.tensor(10.0).log())[sure])


@pytest.mark.slow
@pytest.mark.browser
def test_the_keyboard_is_enough(page):
    before = written(page)
    page.locator(".write textarea").focus()
    page.keyboard.press("Tab")  # the temperature
    page.keyboard.press("ArrowLeft")
    assert page.locator(".write input[type=range]").first.get_attribute("aria-valuetext") == "0.75"
    assert page.evaluate("document.activeElement.labels[0].textContent").startswith("temperature")
    page.keyboard.press("ArrowRight")
    assert written(page) == before
    for _ in range(6):
        page.keyboard.press("Tab")  # past the other sliders
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.checked"), "the greedy switch"
    assert written(page) != before
    page.keyboard.press("Space")
    assert written(page) == before
    page.locator(".write .text").focus()
    for key, place in (("Home", 0), ("ArrowRight", 1), ("End", len(before) - 1), ("ArrowLeft", len(before) - 2)):
        page.keyboard.press(key)
        assert page.locator(".write .text .here").get_attribute("data-t") == str(place)
    assert f"character {len(before) - 1}" in page.locator(".write .said").first.inner_text()
    page.locator(".tiles button").nth(3).focus()
    page.keyboard.press("Enter")
    assert page.locator(".tiles button[aria-pressed=true]").count() == 1
    page.get_by_text("Colour the text by surprise again").press("Enter")
    assert written(page) == before


@pytest.mark.slow
@pytest.mark.browser
def test_bad_input_is_answered_in_words(page):
    prompt, problem = page.locator(".write textarea"), page.locator(".write .problem")
    prompt.fill("Café “now”")
    assert "“é” (U+00E9) at position 3 is not among the 65 characters" in problem.inner_text()
    problem.get_by_role("button").click()
    assert prompt.input_value() == "Caf now"
    assert written(page).startswith("Caf now")
    prompt.fill("")
    assert problem.inner_text().startswith("The prompt is empty: the model needs at least one character")
    page.get_by_text("One character more").click()
    prompt.fill("x" * 300)
    assert "has 300 characters, and the model sees 256 at once: make it 45 characters shorter" in problem.inner_text()
    prompt.fill("x" * 250)
    assert len(written(page)) == 256, "it stops where the window is full"
    page.get_by_text("One character more").click()
    assert "window of 256 characters is full" in problem.inner_text()
    prompt.fill("ROMEO:\n")
    assert problem.inner_text() == ""
    assert len(written(page)) == 47


@pytest.mark.slow
@pytest.mark.browser
def test_a_link_carries_all_settings(page, opened):
    page.locator(".write textarea").fill("A & B = #1?\n".replace("=", "-").replace("#1", "one"))
    for slider, value in (("temperature", 1.3), ("min_p", 0.05), ("seed", 7)):
        text = move(page, slider, value)
    link = page.locator(".buttons a").get_attribute("href")
    assert page.url.endswith(link)
    assert written(opened(hash=link.removeprefix("#"))) == text
    other = opened(hash="temperature=9&top_k=1.5&seed=&length=30&greedy=true&nothing=1")
    said = other.locator(".write .problem").inner_text()
    for words in (
        "temperature = “9” is not a number from 0 to 2: 0.8 is used",
        "top-k = “1.5” is not a whole number",
        "seed =",
    ):
        assert words in said
    assert len(written(other)) == 37
    page.locator(".write textarea").fill("ROMEO:\n")
    for slider, value in (("temperature", 0.8), ("min_p", 0), ("seed", 1)):
        move(page, slider, value)


@pytest.mark.slow
@pytest.mark.browser
def test_the_mask_comes_out(page, shakespeare):
    page.locator("[data-playground=mask]").scroll_into_view_if_needed()
    cell = page.locator(".mask .compared tbody td")  # three rows of two
    page.locator(".mask .said", has_text="has become").wait_for()
    text = page.locator(".mask textarea").input_value()
    ids = torch.tensor(shakespeare.tokenizer.encode(text))
    right = {name: pc.evaluate(shipped(name), ids) for name in ("honest", "unmasked")}
    honest, unmasked = (float(cell.nth(i).inner_text()) for i in (0, 1))
    assert honest == pytest.approx(right["honest"], abs=1e-3)
    assert unmasked == pytest.approx(right["unmasked"], abs=1e-3)
    assert [cell.nth(i).inner_text() for i in (4, 5)] == ["0 of 24", "24 of 24"]
    assert page.locator(".mask .leak").count() == 24
    assert f"{honest:.3f}" in page.locator(".verdict").inner_text()
    page.locator(".mask input[type=radio]").first.focus()
    page.keyboard.press("ArrowDown")
    assert f"without the mask has a loss of {unmasked:.3f}" in page.locator(".verdict").inner_text()
    assert "It begins a new window" in page.locator(".mask .written .said").inner_text()
    page.locator(".mask .probe .text").first.focus()
    page.keyboard.press("Home")
    assert [cell.nth(i).inner_text() for i in (4, 5)] == ["none there"] * 2
    page.locator(".mask .plain").nth(1).locator("span").nth(60).wait_for(state="attached")  # the twin writes
    page.locator(".mask textarea").fill("naïve")
    assert "“ï” (U+00EF) at position 2" in page.locator(".mask .problem").inner_text()
    page.locator(".mask textarea").fill("a")
    assert "a text of 1 character has nothing to predict" in page.locator(".mask .problem").inner_text().lower()


@pytest.mark.slow
@pytest.mark.browser
def test_a_character_costs_less_than_three_times_its_multiplications_and_a_slider_ten_times(browser, opened):
    """By the processor time of the page's own process, with all that it draws: other work on this machine does not count.
    Nor does how fast the machine is: beside it stands a plain loop over as many weights as a character reads."""
    session = browser.new_browser_cdp_session()

    def renderers():
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        return {each["id"]: each["cpuTime"] for each in processes if each["type"] == "renderer"}

    others = set(renderers())
    page = opened(hash="length=0")

    def seconds(work):
        before = renderers()
        work()
        return sum(used - before.get(each, 0) for each, used in renderers().items() if each not in others)

    plain = """weights => {
      const w = new Float32Array(weights).fill(0.5), x = new Float32Array(768).fill(0.25);
      let all = 0;
      for (let character = 0; character < 240; character++) {
        let [a, b, c, d] = [0, 0, 0, 0];
        for (let i = 0; i < weights; i += 4) {
          const j = i % 768;
          a += w[i] * x[j]; b += w[i + 1] * x[j + 1]; c += w[i + 2] * x[j + 2]; d += w[i + 3] * x[j + 3];
        }
        all += a + b + c + d;
      }
      return all;
    }"""
    weights = 2_466_368  # all of them but one: a multiple of 4
    unit = min(seconds(lambda: page.evaluate(plain, weights)) for _ in range(3)) / 240
    move(page, "length", 240)
    assert min(seconds(lambda seed=seed: move(page, "seed", seed)) for seed in (5, 6, 7)) / 240 < 3 * unit
    move(page, "length", 0)
    handle = page.locator(".write input[type=range]").first
    press = "it => { for (let i = 0; i < 10; i++) { it.value = 1 + i / 10; it.dispatchEvent(new Event('input')); } }"
    assert 0 < seconds(lambda: handle.evaluate(press)) / 10 < 10 * unit
    page.close()


@pytest.mark.slow
@pytest.mark.browser
def test_who_wants_no_motion_sees_a_text_when_it_is_complete(opened):
    page = opened(reduced_motion="reduce")
    written(page)
    watch = (
        "window.lengths = []; new MutationObserver(() => lengths.push(document.querySelectorAll('.write .text span').length))"
    )
    page.evaluate(f"{watch}.observe(document.querySelector('.write .text'), {{ childList: true }})")
    move(page, "length", 90)
    assert set(page.evaluate("lengths")) <= {7, 97}


@pytest.mark.slow
@pytest.mark.browser
def test_who_cannot_run_it_is_told_so(opened, browser, web, tmp_path):
    plain = opened(java_script_enabled=False, ready="text=scripts are switched off >> nth=0")
    assert plain.locator("[data-playground] p").count() == 2
    old = browser.new_page()
    old.add_init_script("delete window.DecompressionStream")
    old.goto((web / "playground.html").as_uri())
    assert "too old for the playground: it lacks DecompressionStream" in old.locator("[data-playground]").first.inner_text()
    shutil.copytree(web, tmp_path / "web", ignore=shutil.ignore_patterns("weights"))
    old = browser.new_page()
    old.goto((tmp_path / "web" / "playground.html").as_uri())
    old.locator(".problem", has_text="python tools/playground.py weights").first.wait_for()
