"""Around a model: how the rate runs, when gradients are clipped, which tokens are learned, what options leave, and beams."""

import math

import doctor_loops as loops
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import picogpt_core as pc
from picogpt_doctor import diagnose, examine_step

PEAK, WARM, ALL = 1e-3, 8, 30


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")
    torch.manual_seed(0)


def found(report, check):
    finding = report[check]
    return finding.status.value, finding.cause or finding.evidence


# ----- rate


def cosine(n, warm=WARM, total=ALL):
    return PEAK * (n + 1) / warm if n < warm else PEAK * (1 + math.cos(math.pi * (n - warm) / (total - warm))) / 2


COURSES = {
    "warm-up, then a cosine": (cosine, "pass", ""),
    "geometric warm-up": (lambda n: PEAK * min(1, 2.0 ** (n - 6)), "pass", ""),
    "cosine with restarts": (lambda n: cosine(n % 10, 0, 10) + 1e-5, "pass", ""),
    "restarts with warm-up": (lambda n: cosine(n % 12, 4, 12) + 1e-5, "pass", ""),
    "warm-up, constant, linear to 0": (lambda n: PEAK * min((n + 1) / WARM, 1, (ALL - n) / 5), "pass", ""),
    "inverse root": (lambda n: PEAK * min((n + 1) / WARM, (WARM / (n + 1)) ** 0.5), "pass", ""),
    "by epochs": (lambda n: PEAK * 0.5 ** (n // 10), "pass", ""),
    "steps of the epoch": (lambda n: PEAK * (n % 5 + 1) / 20 if n < 20 else cosine(n), "fail", "warm-up starts anew"),
    "made again in each epoch": (lambda n: PEAK * (n % 10 + 1) / 10, "fail", "warm-up starts anew"),
    "warm-up ends too early": (lambda n: PEAK * (n + 1) / 80 if n < WARM else cosine(n), "warn", "jumps where warm-up ends"),
    "decays from a lower peak": (lambda n: cosine(n) / (1 if n < WARM else 4), "warn", "loses more than half at once"),
    "a cosine beyond its end": (lambda n: cosine(n, WARM, 18), "warn", "goes on past its end"),
    "0 too early": (lambda n: PEAK * max(0, min((n + 1) / WARM, 1 - (n - WARM) / 10)), "warn", "reaches 0 before"),
}


@pytest.mark.parametrize("name", COURSES)
def test_how_the_rate_runs(name):
    course, status, words = COURSES[name]

    def train():
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
        adam = torch.optim.AdamW(model.parameters())
        for n in range(ALL):
            adam.param_groups[0]["lr"] = course(n)
            x = torch.randint(9, (2, 5))
            F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
            adam.step()
            adam.zero_grad()

    seen = found(examine_step(train), "rate")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- clipping


def clipped(each=False, last=True, value=False):
    def train():
        clip = torch.nn.utils.clip_grad_value_ if value else torch.nn.utils.clip_grad_norm_
        model = loops.LM()
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(4):
            for _ in range(3):
                (model(*loops.get_batch("train"))[1] / 3).backward()
                if each:
                    clip(model.parameters(), 0.1)
            if last:
                clip(model.parameters(), 0.1)
            adam.step()
            adam.zero_grad()

    return train


def two_models():
    """Each is clipped after its own backward pass, and both step at the end."""
    one, two = loops.LM(), loops.LM()
    adams = [torch.optim.AdamW(m.parameters()) for m in (one, two)]
    for _ in range(4):
        for model in (one, two):
            model(*loops.get_batch("train"))[1].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        for adam in adams:
            adam.step()
            adam.zero_grad()


@pytest.mark.parametrize(
    ("step", "status"),
    [
        (clipped(each=True, last=False), "fail"),
        (clipped(each=True), "fail"),
        (clipped(each=True, value=True), "fail"),
        (clipped(), "pass"),
        (two_models, "pass"),
    ],
)
def test_gradients_are_clipped_when_all_are_there(step, status):
    seen = found(examine_step(step), "clipping")
    assert (seen[0], "single micro-batches" in seen[1]) == (status, status == "fail"), seen


# ----- what is learned


def encode(text):
    return [ord(c) % 23 + 3 for c in text]


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(32, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 32)

    def forward(self, ids):
        return self.head(self.mix(self.table(ids))[0])


PAD, END, MARK = 0, 1, 2
WORDS = [
    ("what is a loss", "a mean of logs"),
    ("who was it", "nobody knows"),
    ("say", "yes and no"),
    ("how many are", "just two"),
]


def fine_tuned(off=0, mark=False, all_learned=False, end=True, selected=False):
    """Answers after prompts, padded: labels of the ids, shifted by the loss, and ignored up to the prompt's length + off."""

    def row(prompt, answer):
        ids = encode(prompt) + [MARK] * mark + encode(answer) + [END]
        labels = [-100] * (len(encode(prompt)) + mark + off) + ids[len(encode(prompt)) + mark + off :]
        if not end:
            labels[-1] = -100
        return torch.tensor(ids), torch.tensor(ids if all_learned else labels)

    def train():
        model = Texts()
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(4):
            rows = [row(*WORDS[n]) for n in torch.randperm(4).tolist()]
            ids = nn.utils.rnn.pad_sequence([r[0] for r in rows], batch_first=True, padding_value=PAD)
            ids = F.pad(ids, (0, 3), value=PAD)
            labels = nn.utils.rnn.pad_sequence([r[1] for r in rows], batch_first=True, padding_value=-100)
            labels = ids if all_learned else F.pad(labels, (0, 3), value=-100)
            logits, targets = model(ids)[:, :-1], labels[:, 1:]
            if selected:
                logits, targets = logits[targets != -100], targets[targets != -100]
            F.cross_entropy(logits.reshape(-1, 32), targets.flatten()).backward()
            adam.step()
            adam.zero_grad()

    return train


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ({}, "pass", ""),
        (dict(mark=True), "pass", ""),
        (dict(mark=True, off=-1), "pass", ""),  # the mark is learned too
        (dict(selected=True), "pass", ""),
        (dict(off=1), "fail", "first token of each answer is not learned"),
        (dict(off=1, selected=True), "fail", "first token of each answer is not learned"),
        (dict(off=1, mark=True), "pass", ""),  # the halves are not beside each other: not known
        (dict(off=-1), "warn", "last token of each prompt is learned"),
        (dict(end=False), "warn", "ends each text is not learned"),
        (dict(all_learned=True), "warn", "padding is not ignored"),
    ],
)
def test_which_tokens_are_learned(how, status, words):
    seen = found(examine_step(fine_tuned(**how)), "targets")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- generation


def model():
    torch.manual_seed(0)
    return pc.GPT(pc.ModelConfig(vocab_size=32, block_size=32, n_layer=2, n_head=2, n_embd=16))


def logits_of(m, ids):
    answer = m(ids[:, -32:])
    return (answer[0] if isinstance(answer, tuple) else answer)[:, -1]


def cut(again):
    """top_k, then top_p of what it leaves: normalised again, or not."""

    @torch.no_grad()
    def generate(m, ids, max_new_tokens, top_k=32, top_p=1.0):
        for _ in range(max_new_tokens):
            logs = logits_of(m, ids).log_softmax(-1)
            logs = logs.masked_fill(logs < logs.topk(top_k).values[:, -1:], -math.inf)
            p, order = (logs.softmax(-1) if again else logs.exp()).sort()
            keep = torch.zeros_like(p, dtype=torch.bool).scatter(1, order, p.cumsum(-1) > 1 - top_p)
            keep |= torch.tensor(top_p >= 1.0)
            logs = logs.masked_fill(~keep, -math.inf)
            noise = -torch.log(-torch.log(torch.rand_like(logs)))
            ids = torch.cat([ids, (logs + noise).argmax(-1, keepdim=True)], dim=1)
        return ids

    return generate


def beams(taken=True, summed=True):
    """A beam search without a cache, of two ids beside each other: `taken` puts the ids in order as the scores are."""

    @torch.no_grad()
    def beam_search(m, ids, max_new_tokens, num_beams=3):
        rows = []
        for prompt in ids:
            texts, scores = prompt[None].repeat(num_beams, 1), torch.tensor([0.0] + [-1e9] * (num_beams - 1))
            for _ in range(max_new_tokens):
                each = logits_of(m, texts).log_softmax(-1) + scores[:, None]
                best, chosen = each.flatten().topk(num_beams)
                scores = best if summed else best - scores[chosen // each.shape[1]]
                beam, token = chosen // each.shape[1], chosen % each.shape[1]
                texts = torch.cat([texts[beam] if taken else texts, token[:, None]], dim=1)
            rows.append(texts[scores.argmax()])
        return torch.stack(rows)

    return beam_search


@pytest.mark.parametrize(
    ("generate", "status", "words"),
    [
        (cut(True), "pass", "top_k and top_p as defined"),
        (cut(False), "fail", "top_k and top_p together leave no token"),
        (beams(), "pass", "3 beams"),
        (beams(summed=False), "warn", "less likely text than its number of beams"),
    ],
)
def test_options_together_and_beams(generate, status, words):
    seen = found(diagnose(model(), generate=generate), "generate")
    assert (seen[0], words in seen[1]) == (status, True), seen
