"""Around a model: rates, clips, idle parameters, which tokens are learned and counted, masks, options of a sampler, what is
loaded."""

import copy
import functools
import math
import time

import doctor_loops as loops
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

import picogpt_core as pc
from picogpt_doctor import diagnose, examine_batch, examine_checkpoint, examine_step

PEAK, WARM, ALL = 1e-3, 8, 30


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")
    torch.manual_seed(0)


def found(report, check):
    finding = report[check]
    return finding.status.value, finding.cause or finding.evidence


def all_findings(report):
    return [f for status in ("error", "fail", "warn") for f in report.of(status)]


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
    "a cliff after a constant rate": (lambda n: PEAK * (min((n + 1) / 4, 1) if n < 24 else 0.3), "pass", ""),
    "1 / t": (lambda n: PEAK * min((n + 1) / 4, 4 / (n + 1)), "pass", ""),
    "a cosine that counts warm-up": (
        lambda n: PEAK * (n + 1) / WARM if n < WARM else cosine(min(n, 22), 0, 22) + 1e-6,
        "warn",
        "counts warm-up's steps",
    ),
    "a line that counts warm-up": (
        lambda n: PEAK * min((n + 1) / WARM, 1) * (1 - (n / 60 if n >= WARM else 0)),
        "warn",
        "counts warm-up's steps",
    ),
    "made again in each epoch": (lambda n: PEAK * (n % 10 + 1) / 10, "fail", "warm-up starts anew"),
    "warm-up ends too early": (lambda n: PEAK * (n + 1) / 80 if n < WARM else cosine(n), "warn", "jumps where warm-up ends"),
    "decays from a lower peak": (lambda n: cosine(n) / (1 if n < WARM else 4), "warn", "loses more than half at once"),
    "never decays": (lambda n: PEAK * (n + 1) / WARM if n < WARM else PEAK / 100, "warn", "the decay is missing"),
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


def grouped(apart):
    """A training whose group without weight decay holds what `apart` says of names."""

    def train():
        model = loops.LM()
        model.state = nn.Parameter(torch.zeros(3))  # of a recurrence, say
        named = list(model.named_parameters())
        groups = [dict(params=[p for n, p in named if bool(apart(n)) == w], weight_decay=0.0 if w else 0.1) for w in (1, 0)]
        adam = torch.optim.AdamW(groups)
        for _ in range(4):
            x = torch.randint(9, (2, 5))
            loss = F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()) + model.state.exp().sum()
            loss.backward()
            adam.step()
            adam.zero_grad()

    return train


@pytest.mark.parametrize(
    ("apart", "status"),
    [(lambda n: n == "state", "pass"), (lambda n: n.endswith("bias"), "warn"), (lambda n: "none" in n, "warn")],
)
def test_a_group_without_decay_for_a_recurrence_alone_is_no_try_at_norms(apart, status):
    report = examine_step(grouped(apart))
    assert report["optimizer"].status == status, str(report)


# ----- the last target

LONG = torch.randint(40, (4_000,), generator=torch.Generator().manual_seed(2))


def rows(wrap, marked=False, period=0):
    """16 rows of 24 ids and their targets; `wrap`: the last one is the row's first id."""
    ids = LONG[: 16 * 25].reshape(16, 25).clone()
    if marked:  # each row is one text with its mark, and so is the next
        ids[:, 0] = ids[:, -1] = 41
    if period:
        ids = ids[:, torch.arange(25) % period]
    return ids[:, :-1], ids[:, :-1].roll(-1, 1) if wrap else ids[:, 1:]


@pytest.mark.parametrize(
    ("batch", "status"),
    [
        (rows(True), "fail"),
        (dict(input_ids=rows(True)[0].numpy(), labels=rows(True)[1].numpy()), "fail"),
        (rows(False), "pass"),
        (rows(False, marked=True), "pass"),
        (rows(True, marked=True), "pass"),
        (rows(False, period=8), "pass"),
    ],
)
def test_the_last_target_is_the_next_token(batch, status):
    seen = found(examine_batch(batch, vocab_size=50), "shift")
    assert (seen[0], "wrapped round" in seen[1]) == (status, status == "fail"), seen


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


def clipped_by_hand(given, keyword=False):
    """The norm first, then the clip; `given` makes what both are given."""

    def train():
        model = loops.LM()
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(4):
            model(*loops.get_batch("train"))[1].backward()
            parameters = given(model)
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
            if keyword:
                torch.nn.utils.clip_grads_with_norm_(parameters=parameters, max_norm=0.1, total_norm=norm)
            else:
                torch.nn.utils.clip_grads_with_norm_(parameters, 0.1, norm)
            adam.step()
            adam.zero_grad()

    return train


def clipped_twice():
    """One generator for two models' worth of calls: it is empty from the second step on."""
    model = loops.LM()
    adam = torch.optim.AdamW(model.parameters())
    parameters = (p for p in model.parameters() if p.dim() > 9)
    for _ in range(4):
        model(*loops.get_batch("train"))[1].backward()
        torch.nn.utils.clip_grad_norm_([*parameters], 0.1)
        adam.step()
        adam.zero_grad()


@pytest.mark.parametrize(
    ("step", "status"),
    [
        (clipped_by_hand(lambda m: m.parameters()), "fail"),
        (clipped_by_hand(lambda m: m.parameters(), keyword=True), "fail"),
        (clipped_twice, "fail"),
        (clipped_by_hand(lambda m: list(m.parameters())), "pass"),
        (clipped_by_hand(lambda m: list(m.parameters()), keyword=True), "pass"),
    ],
)
def test_a_generator_that_was_used_up_clips_nothing(step, status):
    seen = found(examine_step(step), "clipping")
    assert (seen[0], "was given no parameters" in seen[1]) == (status, status == "fail"), seen


# ----- the mode


@pytest.mark.parametrize(
    ("at", "cause"), [(0, "evaluation leaves the model in evaluation mode"), (6, "it is trained in evaluation mode: without")]
)
def test_only_an_evaluation_that_came_before_can_have_left_a_model_in_evaluation_mode(at, cause):
    def train():
        model = nn.Sequential(nn.Embedding(loops.V, 16), nn.Dropout(0.1), nn.Linear(16, loops.V)).eval()  # as from_pretrained
        adam = torch.optim.AdamW(model.parameters())
        for n in range(8):
            if n == at:
                with torch.no_grad():
                    model(loops.get_batch("val")[0])
            x, y = loops.get_batch("train")
            F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
            adam.step()
            adam.zero_grad()

    seen = found(examine_step(train), "mode")
    assert seen[0] == "fail"
    assert cause in seen[1], seen


# ----- dropout after an evaluation


class Attends(nn.Module):
    """Attention with a dropout probability of its own; `fault`: what an evaluation does to it."""

    def __init__(self, fault):
        super().__init__()
        self.fault, self.p, self.drop, self.qkv = fault, 0.1, nn.Dropout(0.1), nn.Linear(16, 48)

    def forward(self, x):
        p = self.p
        if not self.training and self.fault == "sets its own to 0":
            self.p = p = 0.0
        elif not self.training:
            p = 0
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + self.drop(F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p))


def evaluated(fault="", first=False):
    """Trains, and evaluates after each second step, or before each; then the loop may lower the rate itself."""

    def train():
        table, layer, head = nn.Embedding(loops.V, 16), Attends(fault), nn.Linear(16, loops.V)
        model = nn.Sequential(table, layer, head)
        adam = torch.optim.AdamW(model.parameters())

        def evaluate():
            model.eval()
            was = layer.p
            if fault != "sets its own to 0":
                layer.p = 0.0
            with torch.no_grad():
                model(loops.get_batch("val")[0])
            if fault not in ("sets its own to 0", "is not set back"):
                layer.p = was
            model.train()
            if fault == "stays in evaluation mode":
                layer.drop.eval()

        for n in range(8):
            if n % 2 == 0 and (first or n):
                evaluate()
            if fault == "early dropout" and n == 4:
                layer.p = layer.drop.p = 0.0
            x, y = loops.get_batch("train")
            F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
            adam.step()
            adam.zero_grad()

    return train


@pytest.mark.parametrize("fault", ["sets its own to 0", "is not set back", "stays in evaluation mode", "", "early dropout"])
@pytest.mark.parametrize("first", [False, True])
def test_dropout_is_as_before_after_an_evaluation(fault, first):
    ill = fault not in ("", "early dropout")
    if first and ill and fault != "sets its own to 0":
        return  # nothing is known of what was before
    seen = found(examine_step(evaluated(fault, first)), "mode")
    assert (seen[0], "switches some dropout off for good" in seen[1]) == ("fail" if ill else "pass", ill), seen


# ----- labels of a batch


def answers(off=0, ignored=-100, tensors=False):
    """Ids and labels that are shifted already, padded; labels of the prompt are left out up to its length - 1 + off."""

    def row(prompt, answer):
        head, full = encode(prompt), [*encode(prompt + answer), END]  # the answer is never encoded by itself
        if tensors:
            head, full = torch.tensor(head), torch.tensor(full)
        labels = torch.as_tensor(full)[1:].clone()
        labels[: len(head) - 1 + off] = ignored
        return torch.as_tensor(full)[:-1], labels

    def batches():
        rows = [row(*words) for words in WORDS]
        pad = nn.utils.rnn.pad_sequence
        for _ in range(3):
            yield pad([r[0] for r in rows], True, PAD), pad([r[1] for r in rows], True, ignored)

    return batches


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(
    ("batches", "check", "words"),
    [(dict(off=1), "labels", "the first token of each answer"), (dict(ignored=2), "shift", "has the label 2"), ({}, "", "")],
)
def test_labels_of_a_prompt_and_its_padding(batches, check, words, tensors):
    report = examine_batch(answers(**batches, tensors=tensors), vocab_size=32)
    ill = all_findings(report)
    assert [f.check for f in ill][:1] == ([check] if check else []), str(report)
    assert not check or words in ill[0].cause, str(report)


# ----- several heads


class Heads(nn.Module):
    """Predicts the next token, and those after it with further heads; with targets it may compute its loss itself."""

    def __init__(self, shifts, inside):
        super().__init__()
        self.shifts, self.inside, self.body = shifts, inside, loops.LM()
        self.more = nn.ModuleList(nn.Linear(loops.V, loops.V) for _ in shifts[1:])

    def forward(self, ids, text=None):
        logits = self.body(ids)
        logits = [logits, *(head(logits) for head in self.more)]
        return self.loss(logits, text) if self.inside else logits

    def loss(self, logits, text):
        T = logits[0].shape[1]
        return sum(
            F.cross_entropy(z.flatten(0, 1), text[:, s : s + T].flatten()) for z, s in zip(logits, self.shifts, strict=True)
        )


def several_heads(shifts, inside):
    def train():
        model = Heads(shifts, inside)
        adam = torch.optim.AdamW(model.parameters())
        text = torch.randint(loops.V, (4000,))
        for _ in range(4):
            rows = torch.stack([text[i : i + 16] for i in torch.randint(3900, (4,))])
            ids = rows[:, :12]
            (model(ids, rows) if inside else model.loss(model(ids), rows)).backward()
            adam.step()
            adam.zero_grad()

    return train


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("shifts", [(1, 3), (1, 3, 4), (1, 2), (1, 2, 3), (1, 1), (2, 3)])
def test_the_heads_of_several_tokens_leave_none_out(shifts, inside):
    seen = found(examine_step(several_heads(shifts, inside)), "targets")
    assert ("shifted once too often" in seen[1]) == (1 in shifts and 3 in shifts and 2 not in shifts), seen


# ----- the end of an epoch


def epochs(batches, style=""):
    """Four micro-batches a step, and batches of an epoch that are not a multiple of four."""

    def train():
        model = loops.LM()
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(4):
            adam.zero_grad()
            for n in range(1, batches + 1):
                (model(*loops.get_batch("train"))[1] / 4).backward()
                if n % 4 == 0 or (style == "last" and n == batches):
                    adam.step()
                    adam.zero_grad()
            if style == "a probe":  # of the curvature, as Sophia's
                model(*loops.get_batch("train"))[1].backward()

    return train


@pytest.mark.parametrize(
    ("step", "ill"),
    [(epochs(10), True), (epochs(5), True), (epochs(8), False), (epochs(10, "last"), False), (epochs(8, "a probe"), False)],
)
def test_the_last_micro_batches_of_an_epoch_are_stepped(step, ill):
    seen = found(examine_step(step), "accumulation")
    assert (seen[0] == "warn", "are thrown away" in seen[1]) == (ill, ill), seen


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


def fine_tuned(off=0, mark=False, all_learned=False, end=True, selected=False, more=0):
    """Answers after prompts, padded: labels of the ids, shifted by the loss, and ignored up to the prompt's length + off, as
    one token `more` behind the end may be."""

    def row(prompt, answer):
        ids = encode(prompt) + [MARK] * mark + encode(answer) + [END] + [MARK] * more
        labels = [-100] * (len(encode(prompt)) + mark + off) + ids[len(encode(prompt)) + mark + off :]
        for n in range(1, 1 + more + (not end)):
            labels[-n] = -100
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
        (dict(off=1), "fail", "first token of each answer is left out of the loss"),
        (dict(off=1, selected=True), "fail", "first token of each answer is left out of the loss"),
        (dict(off=1, mark=True), "pass", ""),  # the halves are not beside each other: not known
        (dict(off=-1), "warn", "last token of each prompt counts in the loss"),
        (dict(end=False), "warn", "ends each text is left out of the loss"),
        (dict(more=1), "pass", ""),  # a line end behind the end
        (dict(more=1, end=False), "warn", "ends each text is left out of the loss"),
        (dict(all_learned=True), "warn", "padding is not ignored"),
    ],
)
def test_which_tokens_are_learned(how, status, words):
    seen = found(examine_step(fine_tuned(**how)), "targets")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- answers of conversations

BOS, ASK, TELL, STOP = 3, 4, 5, 6


def chats(header=8, shift=0, last=False, count=24):
    """Rows (ids, labels) of conversations; `shift`: labels begin and end so many tokens off; `last`: only the last answer."""
    words = torch.Generator().manual_seed(1)

    def some(low, high):
        n = int(torch.randint(low, high, (1,), generator=words))
        return torch.randint(7, 60, (n,), generator=words).tolist()

    rows = []
    for n in range(count):
        ids, spans = [BOS] * header, []
        for _ in range(1 + n % 3):
            ids += [ASK, *some(6, 14), STOP, TELL]
            answer = [*some(6, 14), STOP]
            spans.append((len(ids), len(ids) + len(answer)))
            ids += answer
        labels = [-100] * len(ids)
        for begin, end in spans[-1:] if last else spans:
            labels[begin - shift : end - shift] = ids[begin - shift : end - shift]
        rows.append((ids, labels))
    T = max(len(ids) for ids, _ in rows)
    return [(ids + [PAD] * (T - len(ids)), labels + [-100] * (T - len(ids))) for ids, labels in rows]


def loader(rows, shared=False, twice=False):
    """Batches of four; `shared`: one list of places to learn for all texts, written over; `twice`: changed meanwhile."""
    batches = []
    for epoch in range(2):
        for n in range(0, len(rows), 4):
            ids, labels = (torch.tensor(x) for x in zip(*rows[n : n + 4], strict=True))
            if shared:
                until = min(len([x for x in row if x != PAD]) for row, _ in rows[: len(rows) if epoch else n + 4])
                labels = ids.masked_fill(torch.arange(ids.shape[1]) >= until, -100)
            if twice and epoch:
                labels[:, ::3] = -100
            batches.append(dict(input_ids=ids, labels=labels, attention_mask=ids != PAD))
    return batches


@pytest.mark.parametrize(
    ("batches", "status", "words"),
    [
        (loader(chats()), "pass", "ignored"),
        (loader(chats(shift=7)), "fail", "shifted by a constant number of tokens"),
        (loader(chats(shift=-4)), "fail", "shifted by a constant number of tokens"),
        (loader(chats(last=True)), "warn", "only the last answer"),
        (loader(chats(), shared=True), "fail", "one mask"),
        (loader(chats(), twice=True), "fail", "fewer tokens of a text count in the loss when it comes again"),
        ([dict(input_ids=torch.randint(9, 50, (2, 9)), labels=torch.full((2, 9), -100))] * 2, "fail", "every target"),
    ],
)
def test_answers_are_learned_all_of_them_and_nothing_else(batches, status, words):
    seen = found(examine_batch(batches, vocab_size=64), "labels")
    assert (seen[0], words in seen[1]) == (status, True), seen


@pytest.mark.parametrize(
    ("mask", "status", "words"),
    [
        (lambda ids: (ids != PAD).long(), "pass", ""),
        (torch.zeros_like, "fail", "0 everywhere"),
        (lambda ids: ids == PAD, "fail", "inverted"),
        (lambda ids: ids % 2, "warn", "at real tokens"),
    ],
)
def test_an_attention_mask_is_1_for_real_tokens(mask, status, words):
    ids = torch.tensor([ids for ids, _ in chats()])
    seen = found(examine_batch([dict(input_ids=ids, attention_mask=mask(ids))]), "mask")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- what counts, and how much


def counted(pads=0.0, divisor="", empty=False, nothing=False):
    """A masked mean of padded texts: padding weighs `pads`, rows are taken out before or after they are counted, or all, in one
    step, or always (`nothing`, and the count is at least 1)."""

    def train():
        model = Texts()
        adam = torch.optim.AdamW(model.parameters())
        for step in range(6):
            for half in range(2):
                texts = [[*range(3, 8 + n + step), END] for n in (0, 3, 7, 5)]
                ids = torch.tensor([t + [PAD] * (24 - len(t)) for t in texts])
                mask = (ids[:, 1:] != PAD).float()
                count = mask.sum()
                if divisor:
                    mask[half::2] = 0
                count = count if divisor == "before" else mask.sum()
                mask[ids[:, 1:] == PAD] = pads
                mask = mask * 0 if empty and step == 2 else mask
                count = mask.sum() if empty else count
                if nothing:
                    mask = mask * 0
                    count = mask.sum().clamp(min=1)
                each = -model(ids)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
                sign = torch.linspace(-1, 2, 4)[:, None] if divisor else 1.0  # advantages
                (((each * sign) * mask).sum() / count / 2).backward()
            adam.step()
            adam.zero_grad()

    return train


@pytest.mark.parametrize(
    ("how", "check", "status", "words"),
    [
        ({}, "targets", "pass", ""),
        (dict(pads=31.0), "targets", "fail", "each token of it 31 times as much"),
        (dict(divisor="after"), "loss", "pass", ""),
        (dict(divisor="before"), "loss", "warn", "divided by too many tokens"),
        (dict(empty=True), "trains", "fail", "a mean over no token"),
        (dict(nothing=True), "loss", "warn", "no token counts in the loss"),
    ],
)
def test_tokens_count_alike_and_are_counted(how, check, status, words):
    seen = found(examine_step(counted(**how)), check)
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- parameters without a gradient


class Chosen(Texts):
    """One of three experts runs, always the same."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, ids):
        return self.experts[1](super().forward(ids))


class Decaying(torch.optim.SGD):
    """Weight decay by hand, on all parameters, or on those with a gradient."""

    idle_too = True

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            if self.idle_too or p.grad is not None:
                p.mul_(0.999)
        super().step(closure)


@pytest.mark.parametrize(
    ("idle_too", "status", "words"), [(True, "fail", "got no gradient"), (False, "pass", "no token chose")]
)
def test_parameters_without_a_gradient_stay(idle_too, status, words):
    def train():
        model = Chosen()
        sgd = Decaying(model.parameters(), lr=0.1)
        sgd.idle_too = idle_too
        for _ in range(4):
            ids = torch.randint(32, (3, 9))
            F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
            sgd.step()
            sgd.zero_grad()

    seen = found(examine_step(train), "moves")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- optimizers that call others


class CallsItsClass(torch.optim.AdamW):
    """PyTorch's hooks run twice: in this class's step, and in AdamW's, where an AdamW was made before."""

    def step(self, closure=None):
        return super().step(closure)


class OneForMatrices(torch.optim.Optimizer):
    """Two rules in one, as Muon for the matrices and AdamW for the rest."""

    def __init__(self, params):
        params = list(params)
        super().__init__(params, {"lr": 1e-3})
        self.matrices = torch.optim.SGD([p for p in params if p.dim() > 1], lr=0.1)
        self.rest = torch.optim.AdamW([p for p in params if p.dim() < 2], lr=1e-3)

    def step(self, closure=None):
        self.matrices.step()
        self.rest.step()


class SharpnessAware(torch.optim.Optimizer):
    """SAM (Foret et al., 2021): the gradient that counts is that of weights moved uphill."""

    def __init__(self, params):
        super().__init__(params, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base.param_groups

    def step(self, closure):
        params = [p for group in self.param_groups for p in group["params"]]
        kept = [p.detach().clone() for p in params]
        closure().backward()
        with torch.no_grad():
            for p in params:
                p.add_(p.grad, alpha=0.05)
        self.zero_grad()
        closure().backward()
        with torch.no_grad():
            for p, value in zip(params, kept, strict=True):
                p.copy_(value)
        self.base.step()
        self.zero_grad()


def loop_with(make, step):
    def train():
        torch.manual_seed(0)
        model = loops.LM()
        optimizer = make(model.parameters())
        for _ in range(40):
            ids, targets = loops.get_batch("train")
            step(optimizer, lambda: model(ids, targets)[1])  # noqa: B023

    return train


def once(optimizer, loss, times=1):
    loss().backward()
    for _ in range(times):
        optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize(
    ("make", "step"),
    [
        (CallsItsClass, once),
        (OneForMatrices, once),
        (SharpnessAware, lambda sam, loss: sam.step(loss)),
    ],
    ids=["its class's step", "two rules", "sharpness-aware"],
)
def test_an_optimizer_may_call_another(make, step):
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # from here on AdamW's own step runs the hooks
    report = examine_step(loop_with(make, step))
    assert not [f for f in report.findings if f.status.value not in ("pass", "skip")], report


def test_an_optimizer_that_calls_another_is_stepped_twice_like_any_other():
    seen = found(examine_step(loop_with(CallsItsClass, lambda o, loss: once(o, loss, 2))), "cleared")
    assert (seen[0], "steps twice" in seen[1]) == ("fail", True), seen


def test_a_micro_batch_without_a_gradient_was_not_cleared():
    def train():
        model = loops.LM()
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(4):
            (model(*loops.get_batch("train"))[1] * 0).backward()
            model(*loops.get_batch("train"))[1].backward()
            adam.step()
            adam.zero_grad()

    assert found(examine_step(train), "cleared")[0] == "pass"


# ----- healthy trainings that are seldom seen


def mean_loss(model, split="train"):
    return model(*loops.get_batch(split))[1]


def halves(model):
    """The matrices of the layers, as Muon takes them, and the rest."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "blocks" in n]
    return matrices, [p for p in model.parameters() if all(p is not x for x in matrices)]


def steps_in_hooks(model):
    """Each parameter has an optimizer of its own, which steps as soon as the gradient is there."""
    adams = {p: torch.optim.AdamW([p], 1e-3) for p in model.parameters()}

    def hook(p):
        adams[p].step()
        adams[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1e-3)  # for a schedule that wants an optimizer
    for _ in range(6):
        mean_loss(model).backward()
        stand_in.step()


def two_in_turns(model):
    """Two optimizers, and between their steps a clip, a schedule and an evaluation."""
    parts = halves(model)
    adams = [torch.optim.SGD(parts[0], 0.02), torch.optim.AdamW(parts[1], 1e-3)]
    plans = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 20) for o in adams]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(6):
        scaler.scale(mean_loss(model)).backward()
        for part, adam, plan in zip(parts, adams, plans, strict=True):
            scaler.unscale_(adam)
            torch.nn.utils.clip_grad_norm_(part, 1.0)
            scaler.step(adam)
            plan.step()
            with torch.no_grad():
                mean_loss(model, "val")
        scaler.update()
        model.zero_grad()


def no_torch_optimizer(model):
    for _ in range(6):
        mean_loss(model).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                p.grad = None


def no_optimizer_at_all(model):
    """The weights are changed in hooks, and gradients are gone when the backward pass ends (LOMO)."""

    def hook(p):
        with torch.no_grad():
            p -= 0.1 * p.grad
        p.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    for _ in range(6):
        mean_loss(model).backward()


def copies(model):
    """Half precision in the model, single precision in the optimizer."""
    model.bfloat16()
    exact = [p.detach().float().requires_grad_() for p in model.parameters()]
    adam = torch.optim.AdamW(exact, 1e-2)
    for _ in range(6):
        mean_loss(model).backward()
        for double, p in zip(exact, model.parameters(), strict=True):
            double.grad = p.grad.float()
        adam.step()
        model.zero_grad()
        with torch.no_grad():
            for double, p in zip(exact, model.parameters(), strict=True):
                p.copy_(double)


def likelihood(model, maximize=True, minus=False):
    """Its logarithm is made larger, or -log_softmax smaller."""
    adam = torch.optim.AdamW(model.parameters(), 1e-3, maximize=maximize)
    for _ in range(6):
        x, y = loops.get_batch("train")
        logs = -model(x).log_softmax(-1) if minus else model(x).log_softmax(-1)
        logs.gather(-1, y[..., None]).mean().backward()
        adam.step()
        adam.zero_grad()


def minus_logs(model):
    likelihood(model, maximize=False, minus=True)


def asides(model):
    """Now and then a gradient that is used for something else, or not at all."""
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    for n in range(9):
        if n % 4 == 3:
            mean_loss(model).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.zero_grad()
        mean_loss(model).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()


def by_hand(model):
    """The gradient of each row is clipped by itself, and they are put together by hand."""
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(6):
        total = [torch.zeros_like(p) for p in model.parameters()]
        for row in zip(*loops.get_batch("train"), strict=True):
            model.zero_grad()
            model(*(x[None] for x in row))[1].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            for whole, p in zip(total, model.parameters(), strict=True):
                whole += p.grad / 4
        for whole, p in zip(total, model.parameters(), strict=True):
            p.grad = whole
        sgd.step()


def adversarial(model):
    """Twice the same rows, the second time with the embedding moved uphill; both gradients count."""
    adam, table = torch.optim.AdamW(model.parameters(), 1e-3), model.wte.weight
    for _ in range(6):
        batch = loops.get_batch("train")
        model(*batch)[1].backward()
        kept = table.data.clone()
        table.data.add_(table.grad / table.grad.norm())
        model(*batch)[1].backward()
        table.data.copy_(kept)
        adam.step()
        adam.zero_grad()


def meta(model):
    """What counts is the loss after a step that torch.autograd.grad computes (MAML, in first order)."""
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(6):
        names, weights = zip(*model.named_parameters(), strict=True)
        grads = torch.autograd.grad(mean_loss(model), weights)
        faster = {n: p - 0.01 * grad for n, p, grad in zip(names, weights, grads, strict=True)}
        torch.func.functional_call(model, faster, loops.get_batch("train"))[1].backward()
        adam.step()
        adam.zero_grad()


def two_losses(model):
    classes = nn.Linear(16, 2)
    adam = torch.optim.AdamW([*model.parameters(), *classes.parameters()], 1e-3)
    for _ in range(6):
        x, y = loops.get_batch("train")
        model(x, y)[1].backward()
        F.cross_entropy(classes(loops.logits_before(model, x).mean(1)), x[:, 0] % 2).backward()
        adam.step()
        adam.zero_grad()


def head_in_parts(model):
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(6):
        x, y = loops.get_batch("train")
        hidden = model.norm(loops.logits_before(model, x))
        cut = hidden.detach().requires_grad_()
        for n in range(0, loops.T, 4):
            logits = model.head(cut[:, n : n + 4])
            (F.cross_entropy(logits.flatten(0, 1), y[:, n : n + 4].flatten()) / 4).backward()
        hidden.backward(cut.grad)
        adam.step()
        adam.zero_grad()


def actor_and_critic(model):
    """Each model's gradients are cleared right before its own backward pass."""
    critic = nn.Sequential(nn.Embedding(loops.V, 8), nn.Linear(8, 1))
    adams = [torch.optim.AdamW(m.parameters(), 1e-3) for m in (model, critic)]
    for _ in range(6):
        x, y = loops.get_batch("train")
        values = critic(x).squeeze(-1)
        for adam, loss in zip(adams, (model(x, y)[1], (values - 1).square().mean()), strict=True):
            adam.zero_grad()
            loss.backward()
            adam.step()


def grows(model):
    """A layer is thawed, and added to the optimizer, after its last step; then there is one layer more, and an optimizer."""
    model.blocks[0].requires_grad_(False)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    for stage in range(2):
        for _ in range(4):
            mean_loss(model).backward()
            adam.step()
            adam.zero_grad()
        if stage == 0:
            model.blocks.append(loops.Layer(16, 0.0))
            adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    model.blocks[0].requires_grad_(True)
    adam.add_param_group({"params": list(model.blocks[0].parameters())})


def merges(model):
    """An adapter is added to its weight, and is 0 again."""
    up = model.blocks[0].up
    up.weight.requires_grad_(False)
    up.A, up.B = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.zeros(64, 2))
    up.forward = lambda x: F.linear(x, up.weight + up.B @ up.A, up.bias)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    for _ in range(6):
        mean_loss(model).backward()
        adam.step()
        adam.zero_grad()
    with torch.no_grad():
        up.weight += up.B @ up.A
        up.B.zero_()


def sparse(model):
    model.wte = nn.Embedding(loops.V, 16, sparse=True)
    rest = [p for n, p in model.named_parameters() if "wte" not in n]
    adams = [torch.optim.SparseAdam(model.wte.parameters(), 1e-3), torch.optim.AdamW(rest, 1e-3)]
    for _ in range(6):
        mean_loss(model).backward()
        for adam in adams:
            adam.step()
            adam.zero_grad()


def swaps(model):
    """Averaged weights, evaluated, are exchanged by sums: what comes back is rounded. And all are normalised in between."""
    adam, means = torch.optim.AdamW(model.parameters(), 1e-3), [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def swap():
        for mean, p in zip(means, model.parameters(), strict=True):
            p.add_(mean)
            mean.neg_().add_(p)
            p.sub_(mean)

    for _ in range(30):
        mean_loss(model).backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            for mean, p in zip(means, model.parameters(), strict=True):
                mean.lerp_(p, 0.1)
            swap()
            mean_loss(model, "val")
            swap()


def normalised(model):
    """The model normalises its weights in each forward pass, in evaluation, too."""

    @torch.no_grad()
    def normalise(module, args):
        for p in model.parameters():
            if p.dim() == 2:
                p /= p.norm(dim=-1, keepdim=True)

    model.register_forward_pre_hook(normalise)
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(6):
        mean_loss(model).backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            mean_loss(model, "val")


@pytest.mark.parametrize(
    "train",
    [
        *(
            steps_in_hooks,
            two_in_turns,
            no_torch_optimizer,
            no_optimizer_at_all,
            copies,
            likelihood,
            minus_logs,
            asides,
            by_hand,
            adversarial,
        ),
        *(meta, two_losses, head_in_parts, actor_and_critic, grows, merges, sparse, swaps, normalised),
    ],
    ids=lambda f: f.__name__,
)
def test_healthy_trainings_that_are_seldom_seen(train):
    report = examine_step(lambda: train(loops.LM(p=0.0)))
    assert not [f for f in report.findings if f.status.value not in ("pass", "skip")], report


def test_what_the_seldom_seen_have_in_common_with_faults():
    """A schedule between two steps of one optimizer, a loss that is made larger, weights that nothing changes."""

    def stepped_twice(model):
        adam = torch.optim.AdamW(model.parameters(), 1e-3)
        plan = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 20)
        for _ in range(6):
            mean_loss(model).backward()
            adam.step()
            plan.step()
            adam.step()
            adam.zero_grad()

    def larger(model):
        adam = torch.optim.AdamW(model.parameters(), 1e-3, maximize=True)
        for _ in range(6):
            mean_loss(model).backward()
            adam.step()
            adam.zero_grad()

    def unchanged(model):
        for _ in range(6):
            mean_loss(model).backward()

    for train, check, words in (
        (stepped_twice, "cleared", "steps twice"),
        (larger, "loss", "sign of the loss is inverted"),
        (unchanged, "trains", "no optimizer uses them"),
    ):
        seen = found(examine_step(lambda train=train: train(loops.LM(p=0.0))), check)
        assert (seen[0], words in seen[1]) == ("fail", True), seen


@pytest.mark.parametrize("by_func", [True, False])
def test_gradients_that_come_otherwise_are_not_followed(by_func):
    """torch.func, and torch.autograd.grad: the weights change, so it trains; more is not said."""
    model = loops.LM(p=0.0)

    def with_func():
        ids, targets = loops.get_batch("train")
        weights = {n: p.detach() for n, p in model.named_parameters()}
        grads = torch.func.grad(lambda w: torch.func.functional_call(model, w, (ids, targets))[1])(weights)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= 0.1 * grads[name]

    def with_grad():
        adam = torch.optim.AdamW(model.parameters(), 1e-3)
        for p, grad in zip(model.parameters(), torch.autograd.grad(mean_loss(model), list(model.parameters())), strict=True):
            p.grad = grad
        adam.step()

    before = [p.detach().clone() for p in model.parameters()]
    seen = found(examine_step(with_func if by_func else with_grad), "trains")
    assert (seen[0], "the weights change" in seen[1]) == ("skip", True), seen
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_training_that_is_stopped_before_its_first_step_is_not_said_to_have_none():
    """Its optimizer is compiled first, say."""

    def train():
        (mean_loss(loops.LM(p=0.0)) / 2).backward()
        while True:
            time.sleep(0.01)

    report = examine_step(train, seconds=0.5)
    assert [report[check].status.value for check in ("trains", "loss")] == ["skip", "skip"], report


def test_an_optimizer_may_have_a_rate_of_0_that_it_does_not_use():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            with torch.no_grad():
                for p in (p for group in self.param_groups for p in group["params"]):
                    p -= 0.1 * p.grad

    assert found(examine_step(loop_with(lambda params: Own(params, lr=0.0), once)), "moves")[0] == "pass"


def test_noise_in_the_input_is_said_to_be_that():
    def train():
        model = loops.LM(p=0.0)
        adam = torch.optim.AdamW(model.parameters(), 1e-3)
        for _ in range(6):
            x, y = loops.get_batch("train")
            x = x.where(torch.rand(x.shape) > 0.15, 0)
            model(x, y)[1].backward()
            adam.step()
            adam.zero_grad()

    ids = LONG[: 16 * 25].reshape(16, 25)
    noisy = ids[:, :-1].where(torch.rand(16, 24) > 0.15, 41), ids[:, 1:]
    for seen in (found(examine_step(train), "targets"), found(examine_batch(noisy, vocab_size=50), "shift")):
        assert (seen[0], "tokens were replaced" in seen[1]) == ("warn", True), seen


# ----- what is loaded


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.query, self.key, self.value = nn.Linear(16, 16, bias=False), nn.Linear(16, 8, bias=False), nn.Linear(16, 8)
        self.out = nn.Linear(16, 40)

    def forward(self, ids):
        x = self.table(ids)
        q, k, v = (part(x).unflatten(2, (-1, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def interleaved(rows, size):
    """Rows (n, C) of heads of a size, halves beside each other, as neighbours."""
    return rows.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)


@pytest.mark.parametrize(
    ("query", "key", "status"), [(4, 4, "pass"), (4, 2, "fail"), (4, 8, "fail"), (0, 4, "fail"), (0, 0, "pass")]
)
def test_rows_of_keys_are_in_the_order_of_those_of_queries(tmp_path, query, key, status):
    torch.save(Attention().state_dict(), tmp_path / "file.pt")

    def load():
        state, model = torch.load(tmp_path / "file.pt"), Attention()
        for name, size in (("query.weight", query), ("key.weight", key)):
            state[name] = interleaved(state[name], size) if size else state[name]
        model.load_state_dict(state)
        return model

    seen = found(examine_checkpoint(load), "values")
    assert (seen[0], "the rows of keys" in seen[1]) == (status, status == "fail"), seen


@pytest.mark.parametrize("emptied", [True, False])
def test_an_adapter_without_a_weight_is_no_adapter(tmp_path, emptied):
    model = Attention()
    model.lora_A = nn.Linear(16, 2, bias=False)
    state = {k: v for k, v in model.state_dict().items() if "lora_A" in k and not emptied}
    torch.save(state, tmp_path / "adapter.bin")

    def load():
        model.load_state_dict(torch.load(tmp_path / "adapter.bin"), strict=False)
        return model

    seen = found(examine_checkpoint(load), "loads")
    assert (seen[0], "no adapter weight" in seen[1]) == (("fail", True) if emptied else ("pass", False)), seen


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


@torch.no_grad()
def diverse_beams(m, ids, max_new_tokens):
    """Two groups of two beams; what the first group chose counts less in the second."""
    rows = []
    for prompt in ids:
        groups = [[prompt[None].repeat(2, 1), torch.tensor([0.0, -1e9])] for _ in range(2)]
        for _ in range(max_new_tokens):
            taken = torch.zeros(32)
            for group in groups:
                each = logits_of(m, group[0]).log_softmax(-1) + group[1][:, None]
                chosen = (each - 0.5 * taken).flatten().topk(2).indices
                group[1] = each.flatten()[chosen]
                group[0] = torch.cat([group[0][chosen // 32], (chosen % 32)[:, None]], dim=1)
                taken += torch.bincount(chosen % 32, minlength=32)
        best = max(groups, key=lambda group: float(group[1].max()))
        rows.append(best[0][best[1].argmax()])
    return torch.stack(rows)


def sampler(used=True, once=True, looked_up=True, by_row=False, in_order=True):
    """Draws among sorted probabilities: by the changed scores, each token's penalty once, each row in its own order."""

    @torch.no_grad()
    def generate(m, ids, max_new_tokens, temperature=1.0, top_k=0, repetition_penalty=1.0):
        if by_row:
            parts = [whole(m, row[None], max_new_tokens, temperature, top_k, repetition_penalty) for row in ids]
            return torch.cat(parts)
        return whole(m, ids, max_new_tokens, temperature, top_k, repetition_penalty)

    def whole(m, ids, n, temperature, top_k, penalty):
        for _ in range(n):
            logits = logits_of(m, ids)
            scores = logits.clone()
            for row, text in enumerate(ids.tolist()):
                for token in set(text) if once else text:
                    scores[row, token] *= penalty if scores[row, token] < 0 else 1 / penalty
            p = ((scores if used else logits) / (temperature if used else 1.0)).softmax(-1)
            p, order = p.sort(descending=True) if in_order else (p, torch.arange(32).expand_as(p))
            if top_k and used:
                p = p.where(p >= p.topk(top_k).values[:, -1:], 0)
            place = torch.multinomial(p, 1)
            token = order.gather(1, place) if looked_up else order[0][place]
            ids = torch.cat([ids, token], dim=1)
        return ids

    return generate


@pytest.mark.parametrize(("above", "words"), [(False, "top_k as defined"), (True, "top_k removes the likeliest tokens")])
def test_a_top_k_whose_comparison_is_inverted_is_named(above, words):
    @torch.no_grad()
    def generate(m, ids, max_new_tokens, top_k=None):
        for _ in range(max_new_tokens):
            logits = logits_of(m, ids)
            kth = logits.topk(top_k or 1).values[:, -1:]
            logits = logits.masked_fill(logits > kth if above else logits < kth, -math.inf) if top_k else logits
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return ids

    seen = found(diagnose(model(), generate=generate), "generate")
    assert (seen[0], words in seen[1]) == ("fail" if above else "pass", True), seen


class AnyLength(nn.Module):
    """Reads texts of any length: each position gets the mean of what came before, and what came last."""

    def __init__(self, block_size):
        super().__init__()
        self.block_size, self.read = block_size, 0
        self.table, self.head = nn.Embedding(32, 16), nn.Linear(16, 32)

    def forward(self, ids):
        self.read = max(self.read, ids.shape[1])
        x = self.table(ids)
        mean = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return self.head(mean + x + x.roll(1, 1) * (torch.arange(ids.shape[1]) > 0)[:, None])


def goes_past_hooks(m, ids):
    """Calls forward itself, which no hook sees, and then gives the model a short text."""
    m.forward(ids)
    return ids[:, -m.block_size :]


def past_the_end(m, ids):
    if ids.shape[1] > m.block_size:
        raise ValueError("too long")
    return ids


WINDOWS = {
    "the last ones": (lambda m, ids: ids[:, -m.block_size :], "pass", ""),
    "all": (lambda m, ids: ids, "pass", ""),
    "half of it, when full": (lambda m, ids: ids if ids.shape[1] <= m.block_size else ids[:, -m.block_size // 2 :], "pass", ""),
    "the first ones": (lambda m, ids: ids[:, : m.block_size], "fail", "cropped at its end"),
    "read past hooks": (goes_past_hooks, "pass", "it was not followed"),
    "refused": (past_the_end, "pass", "it was not followed"),
}


@pytest.mark.parametrize("block_size", [24, 3000])
@pytest.mark.parametrize("window", WINDOWS)
def test_which_tokens_are_kept_of_a_longer_text(window, block_size):
    choose, status, words = WINDOWS[window]
    longest = []

    @torch.no_grad()
    def generate(m, ids, max_new_tokens):
        for _ in range(max_new_tokens):
            m.read = 0
            ids = torch.cat([ids, m(choose(m, ids))[:, -1].argmax(-1, keepdim=True)], dim=1)
            longest.append(m.read)
        return ids

    seen = found(diagnose(AnyLength(block_size), generate=generate), "generate")
    assert (seen[0], words in seen[1]) == (status, True), seen
    assert max(longest) <= 24 or "hooks" in window, "no long text is really read"


def test_a_sliding_cache_reads_on_past_the_block_size():
    class Mean(nn.Module):
        """A running sum is its cache."""

        def __init__(self):
            super().__init__()
            self.block_size, self.table, self.head = 24, nn.Embedding(32, 16), nn.Linear(16, 32)

        def forward(self, ids, cache=None):
            x = self.table(ids)
            before, n = cache or (torch.zeros(len(ids), 1, 16), 0)
            sums = before + x.cumsum(1)
            logits = self.head(x + sums / torch.arange(n + 1, n + ids.shape[1] + 1)[:, None])
            return logits, (sums[:, -1:], n + ids.shape[1])

        @torch.no_grad()
        def generate(self, ids, max_new_tokens):
            logits, cache = self(ids)
            for i in range(max_new_tokens):
                ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
                if i + 1 < max_new_tokens:
                    logits, cache = self(ids[:, -1:], cache)
            return ids

    seen = found(diagnose(Mean()), "generate")
    assert seen[0] == "pass", seen


@pytest.mark.parametrize(
    ("generate", "status", "words"),
    [
        (sampler(), "pass", "temperature and top_k as defined"),
        (sampler(by_row=True), "pass", "temperature and top_k as defined"),
        (sampler(used=False), "fail", "temperature and top_k change nothing"),
        (sampler(in_order=False), "pass", "temperature and top_k as defined"),
        (sampler(once=False, in_order=False), "fail", "once for each time that a token occurs"),
        (sampler(looked_up=False), "fail", "looked up in the order of the first row"),
        (cut(True), "pass", "top_k and top_p as defined"),
        (cut(False), "fail", "top_k and top_p together leave no token"),
        (beams(), "pass", "3 beams"),
        (diverse_beams, "pass", ""),
        (functools.partial(beams(), num_beams=2), "pass", "2 beams"),
        (beams(summed=False), "warn", "less likely text than its number of beams"),
        (beams(taken=False), "warn", "less likely text than its number of beams"),
    ],
)
def test_options_together_and_beams(generate, status, words):
    seen = found(diagnose(model(), generate=generate), "generate")
    assert (seen[0], words in seen[1]) == (status, True), seen


LINE = {
    "a line to 0": lambda adam, total: lr_scheduler.LambdaLR(adam, lambda n: max(0.0, min(n / 2, 1 - n / total))),
    "a cosine": lambda adam, total: lr_scheduler.CosineAnnealingLR(adam, total),
    "one cycle": lambda adam, total: lr_scheduler.OneCycleLR(adam, PEAK, total_steps=total),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize(
    ("kind", "total", "each", "status", "words"),
    [
        *((kind, 24, False, "warn", "the schedule's length is given in micro-batches") for kind in LINE),
        ("a line to 0", 6, False, "pass", ""),
        ("a cosine", 60, False, "pass", ""),  # the doctor is shown a part of the training
        ("one cycle", 24, True, "pass", "the scheduler steps for each micro-batch, and ends at the last of 24"),
    ],
)
def test_what_the_total_of_a_schedule_counts(kind, total, each, status, words):
    def train():
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
        adam = torch.optim.AdamW(model.parameters(), PEAK)
        schedule = LINE[kind](adam, total)
        for n in range(24):
            x = torch.randint(9, (2, 5))
            (F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()) / 4).backward()
            if n % 4 == 3:
                adam.step()
                adam.zero_grad()
            if each or n % 4 == 3:
                schedule.step()

    seen = found(examine_step(train), "rate")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- what is added to the cross-entropy


def beside(how, padded):
    """A loop whose loss has a second term: of the logits z (B, T, V), or a divergence from a teacher's q (B, T, V)."""

    def term(m, z, q, on):
        square, logs, surprise = z.logsumexp(-1).square(), z.log_softmax(-1), (z.softmax(-1) * z.log_softmax(-1)).sum(-1)
        terms = {
            "": lambda: 1e-4 * (square * on).sum() / on.sum(),
            "selected": lambda: 1e-4 * square[on > 0].mean(),
            "by length": lambda: 0.01 * ((surprise * on).sum(1) / on.sum(1)).mean(),
            "divergence": lambda: F.kl_div(logs[on > 0], q[on > 0], reduction="batchmean"),
            "weights": lambda: 1e-4 * sum(p.square().sum() for p in m.parameters()),
            "summed": lambda: 1e-4 * (square * on).sum(),
            "divided by rows": lambda: 1e-4 * (square * on).sum() / len(on),
            "entropy by rows": lambda: 0.01 * (surprise * on).sum(1).mean(),
            "batchmean of rows": lambda: F.kl_div(logs, q, reduction="batchmean"),
            "mean over the vocabulary": lambda: F.kl_div(logs.flatten(0, 1), q.flatten(0, 1), reduction="mean"),
            "on padding, too": lambda: 1e-4 * square.mean(),
        }
        return terms[how]()

    def train():
        m = loops.LM(0.0)
        adam = torch.optim.AdamW(m.parameters(), 1e-3)
        for _ in range(4):
            ids = torch.randint(1, loops.V, (loops.B, loops.T + 1))
            if padded:
                ids = ids * (torch.arange(loops.T + 1) < torch.randint(4, loops.T - 3, (loops.B, 1)))
            z, y = m(ids[:, :-1]), ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
            q = torch.rand(loops.B, loops.T, loops.V).softmax(-1)
            adam.zero_grad()
            (F.cross_entropy(z.mT, y) + term(m, z, q, (y > 0).float())).backward()
            adam.step()

    return train


BESIDE = {
    "summed": "a term added to the cross-entropy is a sum over tokens",
    "divided by rows": "divided by the number of rows (4)",
    "entropy by rows": "divided by the number of rows (4)",
    "batchmean of rows": "divided by the number of rows (4)",
    "mean over the vocabulary": "divided by the size of the vocabulary, too",
    "on padding, too": "counts padding, which the cross-entropy ignores",
}
LIKE_TEXT = ("summed", "on padding, too")  # what only padding shows


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize(
    ("how", "padded"),
    [
        *((how, True) for how in ("", "selected", "by length", "divergence", "weights", *BESIDE)),
        *((how, False) for how in ("weights", *LIKE_TEXT, "divided by rows", "batchmean of rows")),
    ],
)
def test_what_stands_beside_the_cross_entropy_is_averaged_as_it_is(how, padded):
    report = examine_step(beside(how, padded))
    seen = all_findings(report)
    if how in BESIDE and (padded or how not in LIKE_TEXT):
        assert [(f.check, f.status, BESIDE[how] in f.cause) for f in seen] == [("loss", "warn", True)], str(report)
    else:
        assert not seen, str(report)


# ----- preferences


def pairs(seed, B=4, T=loops.T):
    """(2, B, T) ids of answers, preferred and rejected, after prompts of 3 to 5 tokens, and masks of the answers."""
    g = torch.Generator().manual_seed(seed)
    prompts = torch.randint(3, 6, (B,), generator=g)
    ends = prompts + torch.randint(3, T - 5, (2, B), generator=g)
    ids, at = torch.randint(1, loops.V, (2, B, T), generator=g), torch.arange(T)
    ids = torch.where(at < prompts[:, None], ids[0], ids) * (at < ends[..., None])  # 0 pads
    return ids, ((at >= prompts[:, None]) & (at < ends[..., None])).float()


def log_probability(model, ids, mask, how, side):
    """(B, T) -> (B,)."""
    logs = model(ids).log_softmax(-1)
    if how == "not shifted":
        return (logs.gather(-1, ids[..., None])[..., 0] * mask).sum(-1)
    each, mask = logs[:, :-1].gather(-1, ids[:, 1:, None])[..., 0], mask[:, 1:]
    if how == "padding":
        mask = (mask.cumsum(-1) > 0).float()
    if how == f"prompt of {side}":
        mask = (ids[:, 1:] != 0).float()
    mean = how in ("means", "means, left out", f"mean of {side}")
    return (each * mask).sum(-1) / (mask.sum(-1) if mean else 1)


def preferences(how="", kind="dpo", joined=False, p=0.0, steps=4, beta=0.1, size=0.0, scaled=1.0, more=0.0, below=0.0):
    """A loop with a loss of preferences: DPO (or IPO, KTO, SimPO) beside a frozen copy.

    `size`: the learning rate, if not 1e-3; `scaled`: what the loss is multiplied by, as for micro-batches; `more`: how much
    of a likelihood is added to it; `below`: what is subtracted.
    """

    def both(model, ids, masks):
        if joined:
            return log_probability(model, ids.flatten(0, 1), masks.flatten(0, 1), how, 0).chunk(2)
        return [log_probability(model, ids[side], masks[side], how, side) for side in (0, 1)]

    def train():
        torch.manual_seed(1)
        model = loops.LM(p)
        reference = copy.deepcopy(model).train(how == "reference in training").requires_grad_(how == "reference's graph")
        reference = {"the model itself": model, "a shallow copy": copy.copy(model)}.get(how, reference)
        adam = torch.optim.AdamW(model.parameters(), size or 1e-3)
        for n in range(steps):
            ids, masks = pairs(n)
            chosen, rejected = both(model, ids, masks)
            with torch.set_grad_enabled(how == "reference's graph"):
                good, bad = both(reference, ids, masks) if kind != "simpo" else (0.0, 0.0)
            if how == "swapped":
                good, bad = bad, good
            if how == "clamped":
                good, bad = (good - bad).clamp(min=0), 0.0
            out = how in ("left out", "means, left out")
            margin = (
                (chosen - rejected)
                - (0 if out else good - bad)
                - (0.01 * (masks[0] - masks[1]).sum(-1) if kind == "r-dpo" else 0)
            )
            if kind == "kto":
                loss = -(torch.sigmoid(beta * (chosen - good)) + torch.sigmoid(beta * (bad - rejected))).mean()
            else:
                loss = (margin - 1 / beta).square().mean() if kind == "ipo" else -F.logsigmoid(beta * margin).mean()
            adam.zero_grad()
            (loss * scaled - more * chosen.mean() - below).backward()
            adam.step()

    return train


PREFERENCES = {
    "not shifted": ("fail", "targets", "it learns to copy"),
    "padding": ("fail", "targets", "log-probabilities of answers include their padding"),
    "prompt of 0": ("fail", "targets", "count in the log-probability of the preferred answer only"),
    "prompt of 1": ("fail", "targets", "count in the log-probability of the rejected answer only"),
    "mean of 0": ("fail", "targets", "of the preferred answer is a mean over its tokens"),
    "mean of 1": ("fail", "targets", "of the rejected answer is a mean over its tokens"),
    "swapped": ("fail", "targets", "subtracted the other way round"),
    "left out": ("warn", "targets", "is not subtracted"),
    "means, left out": ("warn", "targets", "is not subtracted"),
    "the model itself": ("warn", "targets", "the reference is the trained model itself"),
    "a shallow copy": ("warn", "targets", "the reference is the trained model itself"),
    "reference in training": ("warn", "mode", "a second model that is given the same ids"),
    "reference's graph": ("warn", "optimizer", "goes back into a second model"),
}


@pytest.mark.parametrize(
    ("how", "joined"), [*((how, False) for how in PREFERENCES), *((how, True) for how in ("not shifted", "padding", "swapped"))]
)
def test_what_a_loss_of_preferences_compares_is_named_first(how, joined):
    first = all_findings(report := examine_step(preferences(how, joined=joined, p=0.1 if "training" in how else 0.0)))[0]
    status, check, words = PREFERENCES[how]
    assert (first.status, first.check, words in first.cause) == (status, check, True), str(report)


@pytest.mark.parametrize("how", ["swapped", "left out"])
@pytest.mark.parametrize("scaled", [0.5, 4.0])
def test_a_reference_is_named_whatever_the_loss_is_multiplied_by(how, scaled):
    first = all_findings(report := examine_step(preferences(how, scaled=scaled)))[0]
    assert PREFERENCES[how][2] in first.cause, str(report)


@pytest.mark.parametrize("how", ["swapped", "left out"])
def test_how_a_reference_is_misused_is_left_open_where_something_is_added_to_the_loss(how):
    for added in ({"more": 0.5}, {"below": 9.0}):
        first = all_findings(report := examine_step(preferences(how, **added)))[0]
        assert (first.status, "is swapped, or it is not subtracted" in first.cause) == ("warn", True), str(report)


@pytest.mark.parametrize(
    "options",
    [
        *(
            {},
            {"p": 0.1},
            {"joined": True},
            {"scaled": 0.25},
            {"more": 1.0},
            {"below": 9.0},
            {"size": 1e-6},
            {"kind": "ipo"},
            {"kind": "kto"},
            {"kind": "r-dpo"},
        ),
        *({"how": "means"}, {"how": "means", "kind": "simpo"}, {"how": "clamped"}),
    ],
    ids=str,
)
def test_a_loss_of_preferences_is_healthy(options):
    report = examine_step(preferences(**options))
    assert not all_findings(report), str(report)
    assert "they are the tokens at t + 1" in report["targets"].evidence


# ----- documents in rows, and rows in a batch


def joined(how):
    """Rows of documents by position_ids, whose first tokens are learned, ignored or a mark; or rows flattened before the shift;
    or texts that end with the id of padding, which is ignored by its id or by the mask."""
    draw = torch.Generator().manual_seed(1)

    class Given(Texts):
        def forward(self, ids, attention_mask=None, position_ids=None):
            return super().forward(ids)

    def train():
        model = Given()
        adam = torch.optim.AdamW(model.parameters())
        for _ in range(6):
            ids = torch.randint(4, 32, (4, 24), generator=draw)
            places, more = torch.arange(24).expand(4, 24) % torch.tensor([[7], [9], [5], [11]]), {}
            targets = ids.clone()
            if how in ("learned", "ignored", "mark"):
                more = dict(position_ids=places)
                if how == "mark":
                    ids = targets = ids.masked_fill(places == 0, 3)
                if how == "ignored":
                    targets[places == 0] = -100
            if how.startswith("pad"):
                length = torch.tensor([[9], [14], [17], [20]])
                ids = ids.masked_fill(torch.arange(24) >= length - 1, PAD)
                more = dict(attention_mask=(torch.arange(24) < length).long())
                targets = ids.masked_fill((ids == PAD) if how == "pad id" else more["attention_mask"] == 0, -100)
            logits = model(ids, **more)
            if how == "flat":
                loss = F.cross_entropy(logits.flatten(0, 1)[:-1], ids.flatten()[1:])
            elif how == "rolled":
                loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten().roll(-1))
            else:
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
            adam.zero_grad()
            loss.backward()
            adam.step()

    return train


@pytest.mark.parametrize(
    ("how", "status", "words"),
    [
        ("learned", "fail", "packed document is compared with the first one of the next"),
        ("ignored", "pass", ""),
        ("mark", "pass", ""),
        ("plain", "pass", ""),
        ("flat", "warn", "compared with the first one of the next row"),
        ("rolled", "fail", "compared with the first one of the next row"),
        ("pad id", "warn", "ends each text is left out of the loss"),
        ("pad mask", "pass", ""),
    ],
)
def test_targets_stay_in_their_document_and_their_row(how, status, words):
    seen = found(examine_step(joined(how)), "targets")
    assert (seen[0], words in seen[1]) == (status, True), seen


# ----- what generate keeps, and prompts longer than a window


class Recurrent(nn.Module):
    """Its state is returned where that is asked for; what generate keeps of it is reset in each row, in each call, or never."""

    def __init__(self, reset="row", carried=True, forward_too=True):
        super().__init__()
        self.block_size, self.reset, self.carried, self.forward_too = 48, reset, carried, forward_too
        self.table, self.cell, self.head = nn.Embedding(32, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 32)
        self.kept = None

    def empty_state(self, rows):
        return torch.zeros(1, rows, 16)

    def forward(self, ids, state=None, return_state=False):
        y, new = self.cell(self.table(ids), self.empty_state(len(ids)) if state is None or not self.carried else state)
        return (self.head(y), new) if return_state else self.head(y)

    def read(self, ids):
        call = self if self.forward_too else self.forward  # which no hook sees
        logits, self.kept = call(ids, self.kept, return_state=True)
        return logits[:, -1].argmax(-1, keepdim=True)

    @torch.no_grad()
    def generate(self, ids, max_new_tokens):
        self.kept = None if self.reset != "never" else self.kept
        rows = []
        for row in ids.split(len(ids) if self.reset == "together" else 1):
            self.kept = None if self.reset == "row" else self.kept
            text, new = row, self.read(row)
            for _ in range(max_new_tokens - 1):
                text, new = torch.cat([text, new], dim=1), self.read(new)
            rows.append(torch.cat([text, new], dim=1))
        return torch.cat(rows)


@pytest.mark.parametrize(
    ("options", "check", "words"),
    [
        ({}, "", ""),
        (dict(reset="together"), "", ""),
        (dict(reset="never"), "generate", "goes on from the text before"),
        (dict(reset="never", forward_too=False), "generate", "goes on from the text before"),
        (dict(reset="call"), "generate", "each goes on from what the row before it left"),
        (dict(reset="together", carried=False), "cache", "the cache is not used"),
    ],
)
def test_a_state_is_asked_for_and_begins_anew_in_each_call_and_row(options, check, words):
    report = diagnose(Recurrent(**options))
    failing = {f.check: f.cause for f in all_findings(report)}
    assert report["cache"].status == ("fail" if check == "cache" else "pass"), str(report)
    assert words in failing[check] if check else not failing, str(report)


class Windowed(nn.Module):
    """Two layers that see `window` keys; a cache keeps so many. A prompt attends to its own keys, or to what the cache keeps of
    them."""

    def __init__(self, window, own_keys):
        super().__init__()
        self.block_size, self.window, self.own_keys = 48, window, own_keys
        self.table, self.places = nn.Embedding(32, 16), nn.Embedding(48, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 48) for _ in range(2))
        self.head, self.kept = nn.Linear(16, 32), None

    def forward(self, ids, cache=None):
        start = 0 if not cache else cache[0][2]
        x, new = self.table(ids) + self.places(torch.arange(start, start + ids.shape[1])), []
        for i, layer in enumerate(self.layers):
            q, k, v = layer(x).chunk(3, dim=-1)
            if cache:
                k, v = torch.cat([cache[i][0], k], dim=1), torch.cat([cache[i][1], v], dim=1)
            kept = (k[:, -self.window :], v[:, -self.window :], start + ids.shape[1])
            k, v = (k, v) if self.own_keys or cache is None else kept[:2]
            at = (
                torch.arange(ids.shape[1])[:, None]
                + start
                - torch.arange(start + ids.shape[1] - k.shape[1], start + ids.shape[1])
            )
            seen = (at >= 0) & (at < self.window)
            seen = seen | ~seen.any(-1, keepdim=True)  # or its softmax is NaN
            x, new = x + F.scaled_dot_product_attention(q, k, v, attn_mask=seen), [*new, kept]
        return self.head(x) if cache is None else (self.head(x), new)

    @torch.no_grad()
    def generate(self, ids, max_new_tokens):
        cache, fed = [], ids
        for _ in range(max_new_tokens):
            logits, cache = self(fed, cache)
            fed = logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, fed], dim=1)
        return ids


class Hidden(Windowed):
    """Its forward takes no cache."""

    def forward(self, ids):
        answer = super().forward(ids, self.kept)
        if self.kept is None:
            return answer
        logits, self.kept = answer
        return logits

    @torch.no_grad()
    def generate(self, ids, max_new_tokens):
        self.kept, fed = [], ids
        for _ in range(max_new_tokens):
            fed = self(fed)[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, fed], dim=1)
        self.kept = None
        return ids


@pytest.mark.parametrize(("kind", "check"), [(Windowed, "cache"), (Hidden, "generate")])
@pytest.mark.parametrize("own_keys", [True, False])
def test_a_prompt_longer_than_the_window_is_read_as_without_a_cache(kind, check, own_keys):
    report = diagnose(kind(20, own_keys), new_cache=(lambda rows: []) if kind is Windowed else None)
    assert report["generate"].status == report[check].status == ("pass" if own_keys else "fail"), str(report)
    if not own_keys:
        assert "a prompt of more than 20 tokens" in report[check].cause, str(report)
        assert "the window (window = 20)" in report[check].cause, str(report)


def test_an_error_past_the_block_size_warns_and_what_is_silent_comes_first():
    def uncropped(ends):
        @torch.no_grad()
        def generate(m, ids, max_new_tokens, eos_id=None):
            ended = torch.zeros(len(ids), 1, dtype=torch.bool)
            for _ in range(max_new_tokens):
                answer = m(ids)
                new = (answer[0] if isinstance(answer, tuple) else answer)[:, -1].argmax(-1, keepdim=True)
                if eos_id is not None and ends:
                    new = torch.where(ended, eos_id, new)
                    ended = ended | (new == eos_id)
                ids = torch.cat([ids, new], dim=1)
                if ended.all():
                    break
            return ids

        return generate

    report = diagnose(model(), generate=uncropped(ends=True))
    assert (report["generate"].status, report.exit_status) == ("warn", 0), str(report)
    assert "does not crop" in report["generate"].cause
    report = diagnose(model(), generate=uncropped(ends=False))
    assert "eos_id ends nothing" in report["generate"].cause, str(report)


class Turning(nn.Module):
    """Attention in two layers, with the frequencies of one module, or an ordinary gain, in both."""

    class RotaryEmbedding(nn.Module):
        def __init__(self, learned):
            super().__init__()
            self.freqs = nn.Parameter(100.0 ** (-torch.arange(8) / 8), requires_grad=learned)

    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.freqs = nn.Parameter(torch.ones(8))

    class Layer(nn.Module):
        def __init__(self, turning):
            super().__init__()
            self.qkv, self.turning = nn.Linear(16, 48), turning

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            angles = torch.arange(x.shape[1])[:, None] * self.turning.freqs

            def turned(y):
                a, b = y.chunk(2, dim=-1)
                return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)

            return x + F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)

    def __init__(self, turning):
        super().__init__()
        self.block_size, self.table, self.head = 24, nn.Embedding(32, 16), nn.Linear(16, 32)
        self.layers = nn.ModuleList(self.Layer(turning) for _ in range(2))

    def forward(self, ids):
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_layers_may_share_what_is_not_trained_and_angles():
    for turning in (Turning.RotaryEmbedding(False), Turning.RotaryEmbedding(True)):
        assert diagnose(Turning(turning))["shared layers"].status == "pass"
    assert "used in several layers" in diagnose(Turning(Turning.Gain()))["shared layers"].cause
    frozen = Turning(Turning.Gain()).requires_grad_(False)
    assert "used in several layers" in diagnose(frozen)["shared layers"].cause
