import os

os.environ.setdefault("TQDM_DISABLE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with two threads each would wait for each other
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

import picogpt
import picogpt_core as pc

SONNET = "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n"


@pytest.fixture(scope="session")
def shakespeare():
    return picogpt.load_corpus()


@pytest.fixture
def small():
    """A text of 4,050 characters that trains in no time."""
    return picogpt.load_corpus(SONNET * 50)


@pytest.fixture
def make_model(small):
    def make(seed=0, **changes):
        settings = dict(vocab_size=small.tokenizer.vocab_size, block_size=16, n_layer=2, n_head=2, n_embd=16) | changes
        torch.manual_seed(seed)
        return pc.GPT(pc.ModelConfig(**settings))

    return make
