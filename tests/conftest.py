import contextlib
import functools
import http.server
import os
import shutil
import threading

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("PICOGPT_DOCTOR_STRICT", "1")  # a bug of the doctor fails the test that meets it
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import picogpt
import picogpt_core as pc


def pytest_configure(config):
    config.pluginmanager.register(NamedAtOnce(config))


class NamedAtOnce:
    """Names a failed test as soon as it has failed: pytest does so at the end, and a run that is killed has none."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal:
            lines = report.longreprtext.splitlines()
            why = next((line[1:].strip() for line in lines if line.startswith("E  ")), lines[-1] if lines else "")
            terminal.write(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.0f} s): {why[:200]}\n")


@pytest.fixture(scope="session")
def shakespeare():
    return picogpt.load_corpus()


@pytest.fixture(scope="session")
def sonnet():
    """A text of 4,050 characters that trains in no time."""
    return "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n" * 50


@pytest.fixture
def small(sonnet):
    """The sonnet as a corpus of characters."""
    return picogpt.load_corpus(sonnet)


@pytest.fixture
def text_folder(tmp_path, sonnet):
    """A folder of its own, with the sonnet as text.txt."""
    (tmp_path / "text.txt").write_text(sonnet)
    return tmp_path


@pytest.fixture
def make_model(small):
    def make(seed=0, **changes):
        settings = dict(vocab_size=small.tokenizer.vocab_size, block_size=16, n_layer=2, n_head=2, n_embd=16) | changes
        torch.manual_seed(seed)
        return pc.GPT(pc.ModelConfig(**settings))

    return make


@pytest.fixture
def unreachable():
    """What to put in place of a download, to test without a network."""

    def fail(*_):
        raise OSError("no route to host")

    return fail


@pytest.fixture(scope="session")
def chromium():
    """The path of a browser. Without one, the test is skipped."""
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    return next(found, None) or pytest.skip(
        "NO BROWSER: pages and sliders were not tried. Install chromium (apt-get install chromium), then make test"
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(folder):
    """Serve a folder on a free port; yield the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def serving():
    """The function `serve`, for the tests of pages."""
    return serve
