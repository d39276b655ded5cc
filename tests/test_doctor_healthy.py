"""What is healthy and looks ill: weights set by hand, templates in the data, adapters, losses of several terms, idle experts."""

import copy
import random
import re

import doctor_loops as loops
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import picogpt_core as pc
from picogpt_doctor import diagnose, examine_batch, examine_checkpoint, examine_step

V, T = loops.V, loops.T
CONFIG = pc.preset("tiny")


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")
    torch.manual_seed(0)


# ----- models


def set_by_hand(which):
    """Make some matrices of a new model ten times as large, by name."""

    def change(model):
        for name, x in model.named_parameters():
            if re.search(which, name):
                x.data.mul_(10)

    return change


def last_layer_trained(model):
    for name, x in model.named_parameters():
        x.requires_grad_(name.startswith("h.1."))
    set_by_hand(r"h\.1\..*c_attn")(model)


def frozen_table(model):
    next(m for m in model.modules() if isinstance(m, nn.Embedding)).weight.requires_grad_(False)


class Divided(nn.Linear):
    """A linear layer that divides its weight by its norm, as DoRA does: at 0 it answers NaN."""

    def __init__(self, layer):
        super().__init__(layer.in_features, layer.out_features, bias=False)
        self.weight.data, self.size = layer.weight.data.clone(), nn.Parameter(layer.weight.data.norm(dim=1))

    def forward(self, x):
        return F.linear(x, self.weight * (self.size / self.weight.norm(dim=1))[:, None])


def divided(model):
    for module in [m for block in model.h for m in block.modules()]:
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Divided(child))


MODELS = {
    "of all layers": (set_by_hand(r"h\.\d+\..*c_attn"), "weights", "warn"),
    "of one layer": (set_by_hand(r"h\.1\..*c_attn"), "weights", "fail"),
    "of the layer that is trained": (last_layer_trained, "weights", "warn"),
    "a frozen table of tokens": (frozen_table, "gradients", "warn"),
    "weights divided by their norm": (divided, "residual", "pass"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_set_by_hand_is_at_most_a_warning(name):
    change, check, status = MODELS[name]
    change(model := pc.GPT(CONFIG))
    report = diagnose(model)
    assert report[check].status == status, str(report)
    assert report.healthy == (status != "fail"), str(report)
    if check == "weights":  # what names a fault is said first
        assert report[check].vague


# ----- data


def phrases(seed):
    """A text of few phrases, which any other text of its kind has, too."""
    draw, names = random.Random(seed), ["cat", "dog", "king", "queen", "horse", "boy", "girl", "bird", "fish", "cow"]
    words = [f"the {draw.choice(names)} {draw.choice(['sees', 'hits', 'eats'])} the {draw.choice(names)}. " for _ in range(600)]
    return torch.tensor(list("".join(words).encode()))


def windows(text, length, rows=16):
    return torch.stack([text[i : i + length] for i in torch.randint(len(text) - length, (rows,)).tolist()])


NOISE = torch.randint(90, (40_000,), generator=torch.Generator().manual_seed(0))
ONE, OTHER = phrases(1), phrases(2)


def prompted(split):
    """Rows that begin with the same prompt and end in padding."""
    text = windows(NOISE[:20_000] if split == "train" else NOISE[20_000:], 40, 8) + 1
    ids = torch.cat((NOISE[:60].expand(8, -1) + 1, text), dim=1).masked_fill(torch.arange(140)[:100] > 75, 0)
    return dict(input_ids=ids, attention_mask=ids != 0, labels=ids.masked_fill(ids == 0, -100))


DATA = {
    "phrases": (lambda split: windows(ONE if split == "train" else OTHER, 64), "pass"),
    "phrases in short rows": (lambda split: windows(ONE if split == "train" else OTHER, 32), "pass"),
    "one line": (lambda split: windows(NOISE[:50].repeat(40), 64), "pass"),
    "a prompt for all": (prompted, "pass"),
    "cut well": (lambda split: windows(NOISE[:20_000] if split == "train" else NOISE[20_000:], 64), "pass"),
    "not cut": (lambda split: windows(NOISE[:9_000], 64), "fail"),
    "not cut, in short rows": (lambda split: windows(NOISE[:9_000], 32), "fail"),
    "pieces of training": (dict(train=NOISE, val=torch.cat([NOISE[i : i + 90] for i in range(0, 9_000, 900)])), "fail"),
}


@pytest.mark.parametrize("name", DATA)
def test_what_recurs_in_training_is_no_leak(name):
    data, status = DATA[name]
    report = examine_batch(data)
    assert report["overlap"].status == status, str(report)


# ----- checkpoints


class Adapted(nn.Linear):
    def __init__(self):
        super().__init__(16, 16)
        self.into, self.out = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.randn(16, 2) / 9)

    def forward(self, x):
        return super().forward(x) + x @ self.into.T @ self.out.T


class Tuned(loops.LM):
    def __init__(self):
        super().__init__()
        self.more = Adapted()

    def forward(self, idx, targets=None):
        x = self.more(self.wte(idx))
        return self.head(self.norm(x))


ADAPTER = (".into", ".out")


@pytest.mark.parametrize(
    ("how", "status"),
    [("base first", "pass"), ("frozen", "pass"), ("alone", "fail"), ("merged", "pass")],
)
def test_an_adapters_file_holds_the_adapter_alone(tmp_path, how, status):
    whole = Tuned().state_dict()
    torch.save(whole, tmp_path / "base.pt")
    torch.save({n: x for n, x in whole.items() if n.endswith(ADAPTER)}, tmp_path / "adapter.pt")

    def load():
        model = Tuned()
        if how in ("base first", "merged"):
            base = torch.load(tmp_path / "base.pt")
            model.load_state_dict({n: x for n, x in base.items() if not n.endswith(ADAPTER)}, strict=False)
        for name, x in model.named_parameters():
            x.requires_grad_(how != "frozen" or name.endswith(ADAPTER))
        model.load_state_dict(torch.load(tmp_path / "adapter.pt"), strict=False)
        if how == "merged":
            model.more.weight.data += model.more.out.data @ model.more.into.data
        return model.eval()

    report = examine_checkpoint(load)
    assert report["keys"].status == status, str(report)


# ----- steps


def steps_of(loss, model):
    adam = torch.optim.AdamW(model.parameters(), 1e-3)

    def train():
        for _ in range(12):
            loss(model, *loops.get_batch("train")).backward()
            adam.step()
            adam.zero_grad()

    return examine_step(train)


def of_targets(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def with_teacher(model):
    teacher = copy.deepcopy(model).requires_grad_(False)

    def loss(m, x, y):
        logits = m(x).flatten(0, 1)
        there = F.kl_div(logits.log_softmax(-1), teacher(x).flatten(0, 1).softmax(-1), reduction="batchmean")
        return 0.5 * F.cross_entropy(logits, y.flatten()) + 0.5 * there

    return loss


class Routed(loops.LM):
    """Some of its parts are chosen by the first token, or else only the first two ever run."""

    def __init__(self, chosen=True):
        super().__init__()
        self.chosen, self.h = chosen, nn.ModuleList([nn.ModuleList(nn.Linear(16, 16) for _ in range(6))])

    def forward(self, idx, targets=None):
        x = self.wte(idx)
        for i, part in enumerate(self.h[0][:3]):
            rows = (idx[:, 0] % 2 == i) | (not self.chosen and i < 2)
            if rows.any() and (i or not self.chosen or idx[0, 0] % 3):
                x = x.index_add(0, rows.nonzero().flatten(), part(x[rows]))
        return self.head(self.norm(x))


STEPS = {
    "a teacher that begins as a copy": (with_teacher, lambda: loops.LM(p=0.0), "loss", "pass"),
    "half of the loss": (lambda m: lambda m, x, y: 0.5 * of_targets(m(x), y), lambda: loops.LM(p=0.0), "loss", "warn"),
    "parts that were not chosen": (lambda m: lambda m, x, y: of_targets(m(x), y), Routed, "moves", "pass"),
    "parts that never run": (lambda m: lambda m, x, y: of_targets(m(x), y), lambda: Routed(False), "moves", "warn"),
}


@pytest.mark.parametrize("name", STEPS)
def test_losses_of_several_terms_and_idle_parts(name):
    make_loss, make_model, check, status = STEPS[name]
    model = make_model()
    for part in ("wpe", "blocks"):
        if isinstance(model, Routed):
            delattr(model, part)
    report = steps_of(make_loss(model), model)
    assert report[check].status == status, str(report)
