"""Functions that load a checkpoint, evaluate and generate, each with faults that can be planted."""

import contextlib

import torch
from doctor_loops import LM, SPLIT, B, T, get_batch, windows
from torch import nn


def trained_model():
    torch.manual_seed(0)
    model = LM()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(*get_batch("train"))[1].backward()
        optimizer.step()
    return model


class Tied(LM):
    def __init__(self, tie=True):
        super().__init__()
        if tie:
            self.head.weight = self.wte.weight


def load_lm(path, fault=None):
    """nanoGPT's sample.py: a dict with the model's state, torch.load, load_state_dict."""
    checkpoint = torch.load(path, weights_only=True)
    state = {k.removeprefix("_orig_mod."): v for k, v in checkpoint["model"].items()}
    if fault in ("_orig_mod.", "module."):
        state = {fault + k: v for k, v in state.items()}
    if fault == "inner":
        state = {"net." + k: v for k, v in state.items()}
    if fault == "other names":
        state = {
            k.replace("blocks", "h").replace("wte", "tok").replace("wpe", "p").replace("n", "N"): v for k, v in state.items()
        }
    if fault == "layer missing":
        state = {k: v for k, v in state.items() if "blocks.1" not in k}
    model = LM(layers=1 if fault == "layers lost" else 2)
    if fault == "half":
        model.bfloat16()
    model.load_state_dict(state, strict=False)
    if fault == "initialised after":
        model.apply(lambda m: isinstance(m, nn.Linear | nn.Embedding) and nn.init.normal_(m.weight, std=0.02))
    return model if fault == "training mode" else model.eval()


def load_by_hand(path, fault=None):
    """Copies tensor by tensor what fits, as many conversion scripts do."""
    state = torch.load(path, weights_only=True)["model"]
    model = LM()
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            name = name if fault == "nothing arrives" else name.removeprefix("_orig_mod.")
            if name in own and own[name].shape == value.shape and not (fault == "part arrives" and "blocks" in name):
                own[name].copy_(value)
    return model.eval()


def evaluate(path, fault=None):
    """Loads, and then evaluates on the validation text."""
    model = load_lm(path)
    if fault == "evaluated in training":
        model.train()
    if fault == "as new":
        torch.manual_seed(3)
        model.load_state_dict(LM().state_dict())
    with contextlib.nullcontext() if fault == "graph" else torch.no_grad():
        return [model(*windows(i, "val"))[1].item() for i in range(3)]


def sample(path, fault=None):
    """Loads, and then generates."""
    model = load_lm(path)
    idx = SPLIT["val"][None, :T]
    model.train(fault == "sampled in training")
    with contextlib.nullcontext() if fault == "graph" else torch.inference_mode():
        for _ in range(5):
            idx = torch.cat((idx, model(idx[:, -T:])[:, -1].softmax(-1).multinomial(1)), dim=1)
    return idx


def one_token(path, fault=None):
    """A model trained on a corpus that is one id nearly everywhere."""
    model = load_lm(path)
    if fault:
        with torch.no_grad():
            model.head.weight.zero_()[5] = 1.0
            model.norm.weight.zero_()
            model.norm.bias.fill_(1.0)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = LM()
    fresh.load_state_dict(state)
    return fresh.eval()


FAULTS = {  # fault: (check, words of the cause, functions)
    "_orig_mod.": ("keys", "torch.compile adds", [load_lm]),
    "module.": ("keys", "DistributedDataParallel adds", [load_lm]),
    "inner": ("keys", "begin with 'net.'", [load_lm]),
    "other names": ("keys", "", [load_lm]),
    "layer missing": ("keys", "does not hold", [load_lm]),
    "layers lost": ("keys", "more layers than the model", [load_lm]),
    "initialised after": ("values", "initialised, or changed, after loading", [load_lm]),
    "nothing arrives": ("values", "nothing of the checkpoint", [load_by_hand]),
    "part arrives": ("values", "no longer holds", [load_by_hand]),
    "evaluated in training": ("evaluation", "evaluated, or sampled from, in training mode", [evaluate]),
    "sampled in training": ("evaluation", "evaluated, or sampled from, in training mode", [sample]),
    "graph": ("graph", "builds a graph", [evaluate, sample]),
    "as new": ("trained", "no better than one that knows nothing", [evaluate]),
    "one token": ("trained", "the same token whatever", [one_token]),
}
WARNINGS = {"half": ("dtype", "rounded", [load_lm]), "training mode": ("evaluation", "training mode", [load_lm])}
HEALTHY = (load_lm, load_by_hand, evaluate, sample, one_token)
assert B * T >= 60
