import os

os.environ.setdefault("TQDM_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import picogpt_core as pc

SONNET = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """What must stay on one worker of xdist: the cells of a notebook, and all ways to run one lesson."""
    for item in items:
        lesson = item.callspec.params.get("script") if hasattr(item, "callspec") else None
        if item.path.suffix == ".ipynb":
            group = item.path.name
        elif lesson:
            group = f"run {lesson.name}"
        else:
            group = item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def shakespeare():
    return pc.corpus()


@pytest.fixture
def small():
    """A text of 4,050 characters that trains in no time."""
    return pc.corpus(SONNET * 50)


@pytest.fixture
def make_model(small):
    def make(seed=0, **changes):
        settings = dict(vocab_size=small.tokenizer.vocab_size, block_size=16, n_layer=2, n_head=2, n_embd=16) | changes
        torch.manual_seed(seed)
        return pc.GPT(pc.ModelConfig(**settings))

    return make
