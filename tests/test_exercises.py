"""The checks of the exercises: each typical wrong answer gets its own hint, nothing raises. Right ones: test_anywhere.py."""

import codecs
import contextlib
import copy
import functools
import io
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import silu

import lessons
import picogpt
import picogpt_core as pc
from picogpt import patients

# matplotlib, which is given tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
SCRIPTS = {script.name[:2]: script for script in lessons.scripts()}


@functools.cache
def lesson(number: str) -> dict:
    """What a lesson's cells tagged "setup" and "check" define: its checks and what they stand on, no experiments."""
    names: dict = {"__name__": "lesson"}
    plt.switch_backend("Agg")
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in lessons.from_script(SCRIPTS[number]).cells:
            if {"setup", "check"} & set(cell.metadata.get("tags", ())):
                exec(compile(cell.source, f"{SCRIPTS[number].name}, cell {cell.id}", "exec"), names)
    return names


def bigram(train, val, V, plus=1, keepdim=True, dim=1, repeats=True, mean_first=False, added=None):
    """The loss on `val` (N,) of a bigram table counted in `train` (N,), with the usual slips on request."""
    pairs = torch.zeros(V, V).index_put((train[:-1], train[1:]), torch.tensor(1.0), accumulate=repeats)
    pairs = pairs.clamp(min=1) if plus == "zeros" else pairs + plus
    sums = pairs.sum(dim, keepdim) if added is None else pairs.sum(dim, keepdim) - V + added  # imagined counts in a row
    p = (pairs / sums)[val[:-1], val[1:]]
    return -p.mean().log() if mean_first else -p.log().mean()


def trigram_step(logits=lambda weight, a, b: weight[a, b], target=2, total=1, in_place=True, sign=-1.0, clear=True):
    """One step for exercise 2 of lesson 02, with the slips that are asked for."""

    def step(weight, ids, rate):
        T = ids.shape[1]
        loss = pc.cross_entropy(logits(weight, ids[:, :-2], ids[:, 1:-1]), ids[:, target : T - 2 + target]) * total
        if clear:
            weight.grad = None
        loss.backward()
        if in_place:
            weight.data += sign * rate * weight.grad
        return loss

    return step


def mixed(below=None, down=True, order=lambda ends: ends, start=1):
    """An interpolated probability for exercise 3 of lesson 02, with the slips that are asked for."""

    def probability(counts, context, char, extra, V):
        p = start / V
        for piece in order([context[i:] for i in range(len(context), -1, -1)]):
            shorter = p if down else 1 / V
            p = (counts[piece + char] + extra * shorter) / (counts[piece] + (extra if below is None else below))
        return p

    return probability


def back_off(counts, context, char, extra, V):
    while counts[context + char] == 0:
        context = context[1:]
    return counts[context + char] / counts[context]


def best_of(candidates, loss, counted, scored, pick=min):
    return pick(candidates, key=lambda extra: loss(counted, scored, extra))


def leaks(model, T, positions):
    """Whether logits before one of `positions` change when the tokens from there on do, in the model's present mode."""
    ids = torch.zeros(1, T, dtype=torch.long)
    largest = []
    for t in positions:
        other = ids.clone()
        other[:, t:] = 1
        largest.append((model(ids) - model(other))[:, :t].abs().max().item())
    return max(largest) > 1e-6


def quietly(model, T, positions):
    with pc.evaluation_mode(model):
        return leaks(model, T, positions)


probed = pc.moved_by_the_future


def passes_at(model, ids, t):
    """The whole probe, but for a change from position t on only: it can meet one of two leaks between neighbours."""
    moved = probed(model, ids, t)
    return bool(not moved[:t].any() and moved[t:].all())


def any_past_moves(model, ids):
    """Whether anything before a change moves, wherever it is: half of what makes a model causal."""
    return any(bool(probed(model, ids, t)[:t].any()) for t in range(1, ids.shape[1]))


def last_token_moves(model, T):
    """How much the logits at each position change when the last token does. (T,)"""
    ids = torch.zeros(1, T, dtype=torch.long)
    other = ids.clone()
    other[:, -1] = 1
    return (model(ids) - model(other)).abs().amax(dim=(0, 2))


FAULTY_PARTS = dict(clear="A", learning="B", softmax_twice="C", shifted_twice="D", causal="E", other_rows="F", large_head="G")
FAULTY_PARTS |= dict(by_the_clock="H")


def exposes(letters):
    """A test for exercise 2 of lesson 09 that knows the faults by what they replace."""

    def test(script):
        parts = {name for key, part in vars(type(script)).items() for name in (key, getattr(part, "__name__", ""))}
        return any(FAULTY_PARTS.get(part, "-") in letters for part in parts)

    return test


def too_strict(script):
    """No new model's loss is ln 65 exactly."""
    return script.loss(script.model(), *script.batches(1)[0]).item() != math.log(65)


def bisected(stable, stop=1.02, between=lambda low, high: math.sqrt(low * high), returns=min):
    """The search of exercise 3 of lesson 09, with another idea of what is stable, of the middle, or of when to stop."""

    def search(losses_at, low, high):
        while high >= stop * low:
            middle = between(low, high)
            low, high = (middle, high) if stable(losses_at(middle)) else (low, middle)
        return returns(low, high)

    return search


def is_stable(losses):
    return all(map(math.isfinite, losses)) and losses[-1] <= losses[0]


def walked(losses_at, low, high):
    """Right, but in steps of 1 % from below."""
    while losses_at(low * 1.01)[-1] <= losses_at(low * 1.01)[0]:
        low *= 1.01
    return low


def scheduled(
    plus=1,
    last=1,
    begin=None,
    rises=True,
    form=lambda done: (1 + math.cos(math.pi * done)) / 2,
    lowest=None,
    over=0,
    late=0,
    ahead=0,
):
    """The schedule of exercise 4 of lesson 09, with the slips that are asked for."""
    floor = lowest

    def rate(step, steps, warmup, highest, lowest):
        if rises and step < warmup + late:
            return highest * (step + plus) / (warmup + over)
        start, end = warmup - ahead if begin is None else begin, lowest if floor is None else floor
        return end + (highest - end) * form((step - start) / (steps - last - start))

    return rate


def hard_coded(step, steps, warmup, highest, lowest):
    return scheduled()(step, 100, 10, highest, 0.2)


def whole_loop(
    clear=True,
    share=True,
    clip="once",
    rate=lambda step: step,
    step_all=True,
    draw_anew=False,
    measure=True,
    peak=lambda group, config: group["peak_lr"],
    parts=None,
):
    """The loop of exercise 5 of lesson 09, with the slips that are asked for; `measure` alters what it returns."""

    def loop(net, text, config):
        optimizers, generator, losses = pc.make_optimizers(net, config), torch.Generator(), []
        generator.manual_seed(config.seed)
        for step in range(config.steps):
            if draw_anew:
                generator.manual_seed(config.seed)
            x, y = pc.get_batch(text.train, config.batch_size, net.config.block_size, generator)
            for rows in torch.arange(len(x)).chunk(parts or config.grad_accum):
                (pc.cross_entropy(net(x[rows]), y[rows]) / ((parts or config.grad_accum) if share else 1)).backward()
                if clip == "each":
                    torch.nn.utils.clip_grad_norm_(net.parameters(), config.grad_clip)
            if clip == "once":
                torch.nn.utils.clip_grad_norm_(net.parameters(), config.grad_clip)
            elif callable(clip):
                clip([*net.parameters()], config.grad_clip)
            for optimizer in optimizers if step_all else optimizers[:1]:
                for group in optimizer.param_groups:
                    group["lr"] = peak(group, config) * (pc.learning_rate_at(rate(step), config) if rate else 1)
                optimizer.step()
            for optimizer in optimizers if clear else ():
                optimizer.zero_grad()
            if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
                losses.append((step + 1, pc.evaluate(net, text.val)))
        return losses if measure is True else measure(losses)

    return loop


def clip_each_tensor(parameters, limit):
    for parameter in parameters:
        torch.nn.utils.clip_grad_norm_(parameter, limit)


def adamw_step(hats=lambda m, v, t: (m / (1 - 0.9**t), v / (1 - 0.99**t)), root=lambda v: v.sqrt() + 1e-8, slip=""):
    """The step of exercise 1 of lesson 09, with the slips that are asked for."""

    def step(w, g, m, v, t, rate, decay):
        if slip == "coupled":
            g = g + decay * w
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        m_hat, v_hat = hats(m, v, t)
        if slip not in ("coupled", "no decay", "decay last"):
            w = w - (1 if slip == "whole decay" else rate) * decay * w
        w = w + (rate if slip == "uphill" else -rate) * (g if slip == "gradient" else m_hat) / root(v_hat)
        if slip == "decay last":
            w = w - rate * decay * w
        return w, *((m_hat, v_hat) if slip == "hats kept" else (m, v))

    return step


def nucleus(logits, p, cut=None, descending=True, way_back=True, fill=-math.inf, back=torch.argsort):
    """Top-p for exercise 2 of lesson 10, with the slips that are asked for."""
    ordered, order = logits.sort(descending=descending)
    each = ordered.softmax(0)
    sums = each.cumsum(0)
    out = (sums - each >= p) if cut is None else cut(sums, each)
    return logits.masked_fill(out[back(order)] if way_back else out, fill)


def summed_logits(logits, p):
    """Top-p that adds up logits, the softmax forgotten."""
    ordered, order = logits.sort(descending=True)
    return logits.masked_fill((ordered.cumsum(0) - ordered >= p)[order.argsort()], -math.inf)


def sorted_nucleus(logits, p):
    """The cut of top-p, left in the sorted order."""
    return nucleus(logits.sort(descending=True).values, p)


def least(values, bar, fill=-math.inf):
    """`values` above a bar. For logits, the bar is one for their probabilities."""
    probs = values if values.min() >= 0 and abs(values.sum() - 1) < 1e-3 else values.softmax(0)
    return values.masked_fill(probs < bar, fill)


def heat_of(logits, targets):
    """The temperature with the lowest loss, from a fine grid."""
    heat = torch.linspace(0.3, 2.5, 221).tolist()
    return min(heat, key=lambda T: torch.nn.functional.cross_entropy(logits / T, targets).item())


def sure_as_right(logits, targets):
    """The temperature at which the mean confidence is the accuracy, which need not be the one with the lowest loss."""
    accuracy = (logits.argmax(1) == targets).float().mean()
    heat = torch.linspace(0.3, 2.5, 221).tolist()
    return min(heat, key=lambda T: ((logits / T).softmax(1).max(1).values.mean() - accuracy).abs().item())


def in_text(logits, seen, changed):
    return torch.where(torch.bincount(seen, minlength=len(logits)) > 0, changed, logits)


def penalise_each(logits, seen, penalty):
    for token in seen.tolist():
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return logits


def one_head(
    masked=True, root=True, itself=True, masked_after=False, dim=1, divisor=None, hide=lambda x: x, hidden_score=-math.inf
):
    """Causal attention for exercise 1 of lesson 03, with the slips that are asked for."""

    def attention(x, W_query, W_key, W_value):
        T = len(x)
        hidden = hide(torch.ones(T, T, dtype=torch.bool).triu(1 if itself else 0))
        scores = (x @ W_query) @ (x @ W_key).T / ((divisor or math.sqrt(x.shape[1])) if root else 1)
        if masked and not masked_after:
            scores = scores.masked_fill(hidden, hidden_score)
        weights = scores.softmax(dim=dim)
        return (weights.masked_fill(hidden, 0) if masked_after else weights) @ (x @ W_value)

    return attention


def little_gpt(block=None, gpt=None):
    """The two classes that exercise 3 of lesson 05 asks for, with one or both `forward` methods replaced."""

    def good_block(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

    def good_gpt(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for each in self.h:
            x = each(x)
        return self.lm_head(self.ln_f(x))

    names = lesson("05")
    return (
        type("Block", (names["Parts"],), {"forward": block or good_block}),
        type("MyGPT", (names["Whole"],), {"forward": gpt or good_gpt}),
    )


def little_mlp(wide=4, between=F.gelu, behind=lambda y, x: y, **options):
    """An MLP for exercise 1 of lesson 05, with slips."""

    class MLP(torch.nn.Module):
        def __init__(self, C):
            super().__init__()
            self.c_fc, self.c_proj = (torch.nn.Linear(*n, **options) for n in ((C, wide * C), (wide * C, C)))

        def forward(self, x):
            return behind(self.c_proj(between(self.c_fc(x))), x)

    return MLP


def little_norm(forward):
    """A LayerNorm for exercise 2 of lesson 05 with this `forward`."""
    init = lambda self, C: torch.nn.LayerNorm.__init__(self, C)  # noqa: E731
    return type("LayerNorm", (torch.nn.LayerNorm,), {"__init__": init, "forward": forward})


def normed(**slip):
    """A `forward` of a LayerNorm, with slips."""

    def forward(self, x):
        return lesson("05")["normed"](x, **{"scale": self.weight, "shift": self.bias} | slip)

    return forward


def norm_of_pytorch(self, x):
    return F.layer_norm(x, (4,), self.weight, self.bias)


def norm_in_place(self, x):
    x -= x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias


def norm_with_std(self, x):
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) * self.weight + self.bias


def normed_stream(self, x):
    x = self.ln_1(x)
    x = self.ln_2(x + self.attn(x))
    return x + self.mlp(x)


def mlp_not_added(self, x):
    return self.mlp(self.ln_2(x + self.attn(self.ln_1(x))))


def ln_1_twice(self, x):
    x = x + self.attn(self.ln_1(x))
    return x + self.mlp(self.ln_1(x))


def no_norms(self, x):
    x = x + self.attn(x)
    return x + self.mlp(x)


def with_log_softmax(self, ids):
    return with_softmax(self, ids).log()


def post_ln(self, x):
    x = self.ln_1(x + self.attn(x))
    return self.ln_2(x + self.mlp(x))


def in_parallel(self, x):
    return x + self.attn(self.ln_1(x)) + self.mlp(self.ln_2(x))


def mlp_first(self, x):
    x = x + self.mlp(self.ln_2(x))
    return x + self.attn(self.ln_1(x))


def with_softmax(self, ids):
    x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
    for block in self.h:
        x = block(x)
    return self.lm_head(self.ln_f(x)).softmax(dim=-1)


def without_positions(self, ids):
    x = self.wte(ids)
    for block in self.h:
        x = block(x)
    return self.lm_head(self.ln_f(x))


def read_through(positions, block=lambda b, x: b(x)):
    """A `forward` for exercise 3 of lesson 05 that looks up other positions, or uses its blocks another way."""

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(positions(ids))
        for each in self.h:
            x = block(each, x)
        return self.lm_head(self.ln_f(x))

    return forward


def ten_positions(self, ids):
    x = self.wte(ids) + self.wpe(torch.arange(10))
    for block in self.h:
        x = block(x)
    return self.lm_head(self.ln_f(x))


def two_blocks(self, ids):
    x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
    return self.lm_head(self.ln_f(self.h[1](self.h[0](x))))


def without_last_norm(self, ids):
    x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
    for block in self.h:
        x = block(x)
    return self.lm_head(x)


def picogpt_count(qkv_bias=0, biases=1, norms=2, last_norm=1, head_bias=1):
    """A `count` for exercise 4 of lesson 05, with slips."""

    def count(C, V, T, L):
        block = 12 * C * C + (3 * C * qkv_bias + C) + 5 * C * biases + norms * 2 * C
        return V * C + T * C + L * block + 2 * C * last_norm + V * C + V * head_bias

    return count


def weight_cut(model, layer, part):
    """A `without` for exercise 5 of lesson 05 that leaves the bias in."""
    model = copy.deepcopy(model)
    getattr(model.h[layer], part).c_proj.weight.zero_()
    return model


def ruined(model, layer, part):
    """A `without` for exercise 5 of lesson 05 that changes the model itself."""
    for parameter in getattr(model.h[layer], part).c_proj.parameters():
        parameter.zero_()
    return model


def leak_of_the_last_token(model, T):
    """A find_leak that changes the last token only: it misses a leak in the middle."""
    early = last_token_moves(model, T)[:-1].nonzero()
    return (int(early[0]), T - 1) if len(early) else None


def any_change_at_all(model, T):
    """A find_leak that takes rounding errors for a leak."""
    ids = torch.arange(T)[None]
    for j in range(T):
        changed = ids.clone()
        changed[0, j] += 1
        moved = (model(ids) - model(changed)).abs().amax(dim=(0, 2))[:j]
        if moved.any():
            return int(moved.nonzero()[0]), j
    return None


def accepted(
    chance=lambda p, q: q / p, redraw=lambda p, q: (q - p).clamp(min=0), shift=0, last=-1, judged=2, extra=0, free=None
):
    """The rule of exercise 1 of lesson 12, with the slips that are asked for; p and q are those of the draft and the target."""

    def accept(guesses, p_draft, p_target, generator):
        for i, x in enumerate(guesses.tolist()[:judged]):
            p, q = p_draft[i], p_target[i + shift]
            if torch.rand((), generator=generator) >= chance(p, q)[x]:
                return i + extra, torch.multinomial(redraw(p, q), 1, generator=generator)
        end = p_target[last]
        return len(guesses), free(end) if free else torch.multinomial(end, 1, generator=generator)

    return accept


def drawn_and_compared(guesses, p_draft, p_target, generator):
    own = torch.multinomial(p_target, 1, generator=generator)[:, 0]
    kept = int((own[:-1] == guesses).int().cumprod(0).sum())
    return kept, own[kept]


def speculated(bug):
    """The loop of exercise 2 of lesson 12, with one bug."""

    def speculate(target, draft, ids, n, gamma, settings, generator):
        caches = {model: pc.KVCache(model.config) for model in (target, draft)}
        uncached = {"no cache": (target, draft), "the draft has no cache": (draft,)}.get(bug, ())
        end = ids.shape[1] + n

        def probs(model, last):
            cache = caches[model]
            unread = ids if model in uncached else ids[:, cache.length :]
            if bug == "the draft misses a guess" and model is draft and cache.length:
                unread = ids[:, -1:]
            out = model(unread, cache=None if model in uncached else cache)
            return pc.next_token_probs(out[0, -last:], settings)

        while (here := ids.shape[1]) < end:
            p_draft = torch.zeros(0, target.config.vocab_size)
            for _ in range(0 if bug == "no guesses" else min(gamma, end - here - 1)):
                p = probs(draft, 1)
                drawn_from = p ** (settings.temperature / 1.3 or 1) if bug == "drawn at 1.3" else p
                token = torch.multinomial(drawn_from, 1, generator=generator)
                token = p.argmax(dim=1, keepdim=True) if bug == "the likeliest" else token
                ids = torch.cat([ids, token], dim=1)
                p_draft = torch.cat([p_draft, torch.full_like(p, 0.5) if bug == "another p_draft" else p])
            if bug in ("the first row", "the last row") and len(p_draft):
                p_draft = p_draft[[0 if bug == "the first row" else -1]].repeat(len(p_draft), 1)
            p_target = probs(target, len(p_draft) + 1)
            judges = p_target.roll(1, 0) if bug == "judged by the wrong row" else p_target
            accepted, token = pc.accept_draft(ids[0, here:], p_draft, judges, generator)
            ids = torch.cat([ids[:, : here + accepted], token.view(1, 1)], dim=1)
            for cache in () if bug == "no forgetting" else caches.values():
                cache.length = min(cache.length, ids.shape[1] - 1)
        return ids

    return speculate


def looked_up(sizes=range(8, 2, -1), find=str.rfind, end=1, cut=True, where=0, nothing=""):
    """The search of exercise 3 of lesson 12, with the slips that are asked for."""

    def look_up(source, text, m):
        if where:
            source = text
        for size in sizes:
            at = find(source, text[-size:], 0, len(source) - end)
            if at >= 0 and size <= len(text):
                return source[at + size : at + size + m] if cut else source[at + size :]
        return nothing

    return look_up


def value_bias_folded(image, add=True):
    """A `fold` for exercise 1 of lesson 07 that puts this into c_proj's bias."""

    def fold(attn):
        attn.c_proj.bias *= add
        attn.c_proj.bias += image(attn.c_proj.weight, attn.c_attn.bias[64:])
        attn.c_attn.bias[64:] = 0

    return fold


def norm_folded(weight=True, bias=True, rows=False, late=False):
    """A `fold_norm` for exercise 2 of lesson 07, with the bug that is asked for."""

    def fold_norm(ln, linear):
        W = linear.weight.clone()
        if weight:
            linear.weight *= torch.cat([ln.weight, ln.weight])[:, None] if rows else ln.weight
        if bias:
            linear.bias += (linear.weight if late else W) @ ln.bias
        ln.weight.fill_(1)
        ln.bias.zero_()

    return fold_norm


def verdict_of(pairs=True, t=4.303, root=True, sign=1, under=2):
    """A `verdict` for exercise 3 of lesson 07, with the bug that is asked for."""

    def verdict(changed, base):
        a, b = torch.tensor(changed).double(), torch.tensor(base).double()
        deviation = (a - b).std(correction=3 - under) if pairs else (a.var() + b.var()).sqrt()
        half, mean = t * deviation / (math.sqrt(3) if root else 1), sign * (a - b).mean()
        return "unclear" if abs(mean) <= half else "better" if mean < 0 else "worse"

    return verdict


def shrunken(factor):
    """A `calm` for exercise 3 of lesson 06 that makes the weights of what writes smaller."""
    return lambda net: [p.data.mul_(factor) for name, p in net.named_parameters() if name.endswith("c_proj.weight")]


def mlp_of_the_old_x(block, x):
    """A `both_sides` for exercise 2 of lesson 06 whose branches stand side by side."""
    y = x + block.ln_1_out(block.attn(block.ln_1(x)))
    return y + block.ln_2_out(block.mlp(block.ln_2(x)))


def copy_carried_on(block, x):
    """A `both_sides` that forgets the stream for its normalised copy."""
    x = block.ln_1(x)
    x = x + block.ln_1_out(block.attn(x))
    x = block.ln_2(x)
    return x + block.ln_2_out(block.mlp(x))


def weights_replaced(net):
    """A `calm` for exercise 3 of lesson 06 that puts a new tensor where a parameter was."""
    net.h[0].mlp.c_proj.weight = 0.03 * net.h[0].mlp.c_proj.weight


def wired_block(order):
    """A `both_sides` for exercise 2 of lesson 06 whose LayerNorms stand elsewhere."""
    return lambda block, x: lesson("06")["wired"](block, x, order)


def several_heads(forward=None, bug="", stored_mask=False):
    """A class for exercise 1 of lesson 04 with the bug that is asked for, or another `forward`."""

    class MultiHeadAttention(torch.nn.Module):
        def __init__(self, C, nh, block_size):
            super().__init__()
            self.config = pc.ModelConfig(n_embd=C, n_head=nh)
            self.c_attn, self.c_proj = torch.nn.Linear(C, 3 * C, bias=False), torch.nn.Linear(C, C)
            if stored_mask:
                self.register_buffer("mask", torch.ones(block_size, block_size, dtype=torch.bool))

        def forward(self, x):
            return forward(self, x) if forward else lesson("04")["with_bug"](self, x, bug)

    return MultiHeadAttention


def rows_of_c_proj(model, layer, head):
    model.h[layer].attn.c_proj.weight[head * 32 : (head + 1) * 32] = 0


def in_pieces_without_largest(query, keys, values, size):
    total, mix = 0, 0
    for k, v in zip(keys.split(size), values.split(size), strict=True):
        weights = (k @ query / 8**0.5).exp()
        total, mix = total + weights.sum(), mix + weights @ v
    return mix / total


def scale_columns(block, head, factor):
    block.attn.c_proj.weight[:, head * 32 : (head + 1) * 32] *= factor


def shared_anywhere(named_parameters):
    parameters = [parameter for _, parameter in named_parameters(remove_duplicate=False)]
    return len(set(map(id, parameters))) < len(parameters)


def shared_matrices(model, equal=False, first_only=False, only=None):
    """A `shared` for exercise 1 of lesson 08, with slips."""
    for i, one in enumerate(model.h):
        for other in model.h[1:] if first_only else model.h[i + 1 :]:
            if one is model.h[0] or not first_only:
                for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
                    same = torch.equal(a, b) if equal else a is b
                    if same and (a.dim() == 2 or not equal) and (only is None or name.endswith(only)):
                        return True
    return False


def first_part(
    limit=1e-4,
    which=0,
    of=0,
    rows=slice(None),
    positions=slice(None),
    evaluate=True,
    clean=True,
    measure=lambda a, b: (a - b).abs().max(),
    nan=True,
):
    """A `first_difference` for exercise 2 of lesson 08, with slips."""

    def first_difference(mine, golden, ids, pairs):
        outputs, hooks = ({}, {}), []
        for side, model in enumerate((mine, golden)):
            for pair in pairs:
                keep = functools.partial(lambda key, seen, part, args, out: seen.update({key: out}), pair, outputs[side])
                hooks.append(model.get_submodule(pair[side]).register_forward_hook(keep))
            (model.eval() if evaluate else model)(ids)
        for hook in hooks if clean else ():
            hook.remove()
        off = {pair: measure(*(outputs[side][pair][rows, positions] for side in (0, 1))) for pair in pairs}
        differ = [pair[of] for pair in pairs if (not off[pair] <= limit if nan else off[pair] > limit)]
        return differ[which] if differ else None

    return first_difference


def wrong_parts(containers=False, in_the_run=False, only_first=False, clean=True, swapped=False, nan=True, dot="."):
    """A `guilty` for exercise 3 of lesson 08, with slips."""

    def guilty(mine, golden, ids):
        given, own = (lesson("08")["recorded"](model, ids) for model in (golden, mine))
        if not clean:
            mine.register_forward_hook(lambda part, args, out: None)
        wrong = []
        for name, (args, out) in given.items():  # parts before what contains them
            answer = own[name][1] if in_the_run else mine.get_submodule(name)(*args)
            off = (answer - out).abs().max()
            if not off <= 1e-4 if nan else off > 1e-4:
                wrong.append(name)
        inside = [a for a in wrong if any(a != b and (b.startswith(f"{a}{dot}") or not a) for b in wrong)]
        found = [name for name in wrong if containers or name not in inside]
        found = [name.replace("mlp", "attn") for name in found] if swapped else found
        return found[:1] if only_first else found

    return guilty


def faulty_bpe(text, n, **fault):
    return lesson("01")["bpe_with"](text, n, **fault)


def bpe_encode(text, merges):
    return lesson("01")["bpe"].encode(text)


def bpe_decode(ids, merges):
    return lesson("01")["bpe"].decode(ids)


def bpe_bytes(ids):
    return b"".join(lesson("01")["bpe"].pieces[i] for i in ids)


def what_is_new(chunks):
    """Decodes all bytes again and shows what was added, without � at the end: loses those that are there to stay."""
    shown, out = "", []
    for i in range(len(chunks)):
        now = b"".join(chunks[: i + 1]).decode(errors="replace").rstrip("�")
        out.append(now[len(shown) :])
        shown = now
    return out


def incremental(chunks, errors):
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    return [decoder.decode(chunk) for chunk in chunks]


GREEDY = pc.SampleConfig(30, temperature=0)


def mini(**parts):
    """The parts of the capstone of lesson 13, as they are but for those that are given."""
    return lambda: [parts.get(part.__name__, part) for part in lesson("13")["PROGRAM"]]


class Later(torch.nn.Module):
    """Attention that depends on the last position."""

    def __init__(self, *sizes):
        super().__init__()

    def forward(self, x):
        return x + x[:, -1:]


class Sums(Later):
    """A sum over the past in place of a mean."""

    def forward(self, x):
        return x.cumsum(dim=1)


def mini_attention(scale=8**-0.5, dropout=True, mask=True):
    """The attention of the capstone of lesson 13, with the slips that are asked for."""

    def forward(layer, x):  # (B, T, C) -> (B, T, C)
        q, k, v = layer.qkv(x).unflatten(2, (3, layer.n_head, -1)).permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=mask, scale=scale)
        y = layer.proj(y.transpose(1, 2).flatten(2))  # (B, T, C)
        return layer.dropout(y) if dropout else y

    def attention(*sizes):
        layer = lesson("13")["Attention"](*sizes)
        layer.forward = functools.partial(forward, layer)
        return layer

    return attention


def estimate(after=None, during=False):
    """An estimate of the loss that is made in a mode, and leaves another one. None: as it is."""

    @torch.no_grad()
    def estimate_loss(model, ids, batches, generator):
        was = model.training
        model.train(was if during is None else during)
        loss = pc.cross_entropy(model(ids[None, :32]), ids[None, 1:33])
        model.train(was if after is None else after)
        return loss

    return estimate_loss


def left_out(groups=None, frozen=False, by=id, twice=False):
    """The parameters that no optimizer holds, with the slips that are asked for."""

    def names(model, optimizer):
        held = {by(p) for group in optimizer.param_groups[:groups] for p in group["params"]}
        named = model.named_parameters(remove_duplicate=not twice)
        return {name for name, p in named if (frozen or p.requires_grad) and by(p) not in held}

    return names


def t_over_seeds(flops, losses, next_flops):
    """Student's t over the seeds' own power laws with a floor: it leaves out the doubt about the formula."""
    guesses, log_c = [], np.log(flops)
    for seed in losses.T:
        fits = []
        for floor in np.arange(0, min(seed), 0.005):
            slope, begin = np.polyfit(log_c, np.log(seed - floor), 1)
            law = functools.partial(lambda c, f, a, b: f + np.exp(b + a * np.log(c)), f=floor, a=slope, b=begin)
            fits.append((((law(flops) - seed) ** 2).sum(), law(next_flops)))
        guesses.append(min(fits)[1])
    half = 4.303 * np.std(guesses, ddof=1) / 3**0.5
    return np.mean(guesses) - half, np.mean(guesses) + half


def pairs(weights, biases):
    return list(zip(weights, biases, strict=True))


def within(tolerance, tied=False, quiet=False, of=lambda gap: gap, size=torch.abs):
    """A test of a loaded model for exercise 3 of lesson 14, by the logits `of` the gap; `tied` asks for one matrix,
    `quiet` calls eval()."""

    @torch.no_grad()
    def is_right(model, ids, wanted):
        model = model.eval() if quiet else model
        one = model.lm_head.weight is model.wte.weight or not tied
        return one and bool(size(of(model(ids) - wanted)).max() < tolerance)

    return is_right


@torch.no_grad()
def mean_surprise(model, ids, wanted):
    """Compares one number, the mean logsumexp."""
    one = model.lm_head.weight is model.wte.weight
    return one and bool((model(ids).logsumexp(-1).mean() - wanted.logsumexp(-1).mean()).abs() < 1e-4)


def ddp_with(exchange=lambda grads: sum(grads) / len(grads), split=True, once=True, ranks=None, own=False):
    """What exercise 3 of lesson 15 asks for, with the slips that are asked for."""

    def as_ddp(nets, x, y):
        number = len(nets)
        for rank, net in enumerate(nets):
            rows = slice(rank, None, number) if split else slice(None)
            for _ in range(1 if once else number):
                pc.cross_entropy(net(x[rows]), y[rows]).backward()
        for same in zip(*(net.parameters() for net in nets), strict=True):
            mean = exchange([p.grad.clone() for p in same])
            for p in same[:ranks]:
                p.grad = p.grad if own else mean

    return as_ddp


def accumulate(nets, x, y):
    """Plain accumulation: one model reads all shares."""
    for rank in range(len(nets)):
        (pc.cross_entropy(nets[0](x[rank :: len(nets)]), y[rank :: len(nets)]) / len(nets)).backward()


def filled(square=True, hub=True, missing=True, left_over=True, shapes=tuple, error=ValueError, untied=False):
    """A `fill` for exercise 1 of lesson 14, with the slips that are asked for."""

    @torch.no_grad()
    def fill(model, tensors):
        theirs = {name.removeprefix("transformer.") if hub else name[12:]: value for name, value in tensors.items()}
        theirs = {name: value for name, value in theirs.items() if not name.endswith(".attn.bias")}
        ours = dict(model.named_parameters())
        if (missing and ours.keys() - theirs.keys()) or (left_over and theirs.keys() - ours.keys()):
            raise error("other names")
        four = lesson("14")["FOUR"] if square else ("c_attn.weight", "c_fc.weight", "mlp.c_proj.weight")
        for name in ours.keys() & theirs.keys():
            value = theirs[name].t() if name.endswith(four) else theirs[name]
            if shapes(value.shape) != shapes(ours[name].shape):
                raise error(name)
            ours[name].copy_(value)
        if untied:
            model.lm_head.weight = torch.nn.Parameter(model.wte.weight.clone())

    return fill


def appended(start=None, shift=0, returns="filled", in_place=True, forget=False, to_the_end=False):
    """An `append` for exercise 1 of lesson 11, with the slips that are asked for."""

    def append(store, length, new):
        if not in_place:
            return torch.cat([store[:, :, :length], new], dim=2)
        first, m = (length if start is None else start) + shift, new.shape[2]
        store[:, :, first : first + m] = new
        if forget:
            store[:, :, :length] = 0
        if to_the_end:
            store[:, :, length + m :] = 0
        return {"filled": store[:, :, : length + m], "store": store, "new": new}[returns]

    return append


def cached(mask=lambda m, n: pc.causal_mask(m, past=n), root=True, late=False, past=True, in_place=True, returns="filled"):
    """The attention for exercise 3 of lesson 11, with the slips that are asked for."""

    def attention(q, k, v, k_store, v_store, length):
        write = appended(in_place=in_place, returns=returns)
        old_k, old_v = (write(store, length, new) for store, new in ((k_store, k), (v_store, v)))
        m, n = q.shape[2], old_k.shape[2] - q.shape[2] if past else 0
        k, v = (old_k, old_v) if past else (k, v)
        scores = q @ k.mT / (math.sqrt(q.shape[3]) if root else 1)
        if late:
            return (scores.softmax(-1) * mask(m, n)) @ v
        return scores.masked_fill(~mask(m, n), -math.inf).softmax(-1) @ v

    return attention


def continued(cache=True, whole=False, overflows=False, fresh=False, steps=0, pick=lambda z: z.argmax(1, keepdim=True)):
    """A loop for exercise 4 of lesson 11, with the slips that are asked for.

    `whole` reads all again, into the same cache until it is full, or `overflows`; `fresh` has a new cache at each step; `steps`
    is a number of tokens that does not ask for n.
    """

    def greedy(model, ids, n):
        kept, new = pc.KVCache(model.config) if cache else None, ids
        for _ in range(steps or n):
            new = pick(model(ids if whole or not cache else new, cache=kept)[:, -1])
            ids = torch.cat([ids, new], dim=1)
            if fresh or (whole and not overflows and kept.length + ids.shape[1] > model.config.block_size):
                kept = pc.KVCache(model.config)
        return ids

    return greedy


def kept_first(length):
    """A rollback for exercise 5 of lesson 11: `length` gives the new length from the old one, the guesses and those kept."""

    def keep_first(model, cache, guesses, kept):
        n = cache.length
        logits = model(guesses, cache=cache)
        cache.length = length(n, guesses.shape[1], kept)
        return logits

    return keep_first


def zeroed(model, cache, guesses, kept):
    """The right length, and a store in which the kept ones are lost."""
    logits = kept_first(lambda n, m, k: n + k)(model, cache, guesses, kept)
    cache.k[:, :, :, cache.length - kept :] = 0
    return logits


def cache_of(config, texts, tokens, number):
    return 2 * config.n_layer * (config.n_kv_head or config.n_head) * config.n_embd // config.n_head * texts * tokens * number


def ragged(pads, width):
    t, pads = torch.arange(width), pads[:, None]
    seen = (t[:, None] >= t) & (t >= pads)[:, None, None]
    return (t - pads).clamp(min=0), seen | torch.eye(width, dtype=torch.bool)


def ragged_with(position=None, sees=None):
    """Positions and mask for exercise 7 of lesson 11, one of them another: functions of t (width,) and pads (B, 1)."""

    def other(pads, width):
        t, (positions, mask) = torch.arange(width), ragged(pads, width)
        return position(t, pads[:, None]) if position else positions, sees(t, pads[:, None]) if sees else mask

    return other


def centred(axes=None, also=(), skip=(), in_place=True):
    """An answer to exercise 2 of lesson 16: means taken over these axes, by the end of a name, with the slips asked for."""
    axes = {"wte.weight": 1, "wpe.weight": 1, "c_proj.weight": 0, "c_proj.bias": 0} | (axes or {})

    def centre(weights):
        for name, value in weights.items():
            for end, axis in axes.items():
                if name.endswith((end, *also)) and not (skip and name.endswith(skip)):
                    mean = value.mean() if axis is None else value.mean(axis, keepdim=True)
                    _ = value.sub_(mean) if in_place else value - mean

    return centre


def spun(angle=lambda t, share: t * 10_000.0**-share, neighbours=False, sign=1, late=1):
    """A rotation for exercise 3 of lesson 16; angle takes positions (T, 1) and 2i/hs (hs/2,)."""

    def rotate(x, position):
        half = x.shape[-1] // 2
        turn = angle(position[:, None], torch.arange(half) / half)
        a, b = (x[..., 0::2], x[..., 1::2]) if neighbours else x.split(half, dim=-1)
        parts = a * turn.cos() - sign * b * turn.sin(), b * turn.cos() + late * sign * a * turn.sin()
        return torch.stack(parts, dim=-1).flatten(-2) if neighbours else torch.cat(parts, dim=-1)

    return rotate


def overwritten(x, position):
    """A rotation for exercise 3 of lesson 16 that reads the first half again after it has changed it."""
    half = x.shape[-1] // 2
    angle = position[:, None] * 10_000.0 ** -(torch.arange(half) / half)
    x[..., :half] = x[..., :half] * angle.cos() - x[..., half:] * angle.sin()
    x[..., half:] = x[..., half:] * angle.cos() + x[..., :half] * angle.sin()
    return x


def too_many_angles(x, position):
    """A rotation for exercise 3 of lesson 16 with an angle for each of the hs numbers."""
    hs = x.shape[-1]
    angle = position[:, None] * 10_000.0 ** -(2 * torch.arange(hs) / hs)
    a, b = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-b, a], dim=-1) * angle.sin()


def grouped(
    share=lambda z, nh: z.repeat_interleave(nh // z.shape[1], dim=1), root=True, causal=True, late=False, axis=-1, hidden=None
):
    """A grouped attention for exercise 4 of lesson 16, with the slips that are asked for."""

    def attention(q, k, v):
        k, v = share(k, q.shape[1]), share(v, q.shape[1])
        scores = q @ k.mT / (math.sqrt(q.shape[-1]) if root else 1)
        sees = pc.causal_mask(q.shape[2])
        if causal and not late:
            scores = scores.masked_fill(~sees if hidden is None else hidden(sees), float("-inf"))
        weights = scores.softmax(axis)
        return (weights * sees if late else weights) @ v

    return attention


def scores_times_the_mask(q, k, v):
    """An answer to exercise 4 of lesson 16 that multiplies the scores by the mask."""
    k, v = (z.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for z in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores * pc.causal_mask(q.shape[2])).softmax(-1) @ v


def assembled(hidden=lambda gate, value: silu(gate) * value, add=(True, True), **slips):
    """A block for exercise 5 of lesson 16, with the slips that are asked for, by what they do otherwise."""

    def norm(z, weight):
        return F.rms_norm(z, weight.shape, weight, 1e-5)

    def block(x, W, n_head, n_kv_head):
        C, t = x.shape[2], torch.arange(x.shape[1])
        hs = C // n_head
        turn = slips.get("turn", lambda z: pc.rotate(z, t))
        normed = (slips.get("ln_1") or norm)(x, W["ln_1.weight"])
        parts = (normed @ W["attn.c_attn.weight"].T).split([C, n_kv_head * hs, n_kv_head * hs], dim=2)
        q, k, v = (pc.split_heads(z, z.shape[2] // hs) for z in parts)
        weights = [W[f"attn.{name}_norm.weight"] for name in "qk"]
        if slips.get("late"):
            q, k = (norm(turn(z), weight) for z, weight in zip((q, k), weights, strict=True))
        else:
            q, k = (turn(slips.get("qk", norm)(z, weight)) for z, weight in zip((q, k), weights, strict=True))
        k, v = (z.repeat_interleave(n_head // n_kv_head, dim=1) for z in (k, turn(v) if slips.get("v") else v))
        y = pc.join_heads(pc.attend(q, k, v, causal=not slips.get("future")))
        y = y if slips.get("joined") else y @ W["attn.c_proj.weight"].T
        new = x + y if add[0] else y
        read = new if slips.get("ln_2") else norm(x if slips.get("old") else new, W["ln_2.weight"])
        y = hidden(*(read @ W["mlp.c_fc.weight"].T).chunk(2, dim=2)) @ W["mlp.c_proj.weight"].T
        return new + y if add[1] else y

    return block


# lesson, check, a wrong answer, its hint
WRONG = [
    ("00", "check_loss", ..., "put a number"),
    ("00", "check_loss", None, "put a number"),
    ("00", "check_loss", "ln 8", "put a number"),
    ("00", "check_loss", torch.zeros(2), "put a number"),
    ("00", "check_loss", 3, "in bits"),
    ("00", "check_loss", 8, "the number of choices"),
    ("00", "check_loss", torch.tensor(0.125), "the probability p"),
    ("00", "check_loss", math.log(65), "hesitates among all 65"),
    ("00", "check_loss", -math.log(8), "never below 0"),
    ("00", "check_loss", 1.0, "Take -ln of the probability"),
    ("00", "check_loss", math.nan, "Take -ln of the probability"),
    ("00", "check_recipe", ..., "give a pc.TrainConfig"),
    ("00", "check_recipe", pc.ModelConfig(), "of the type ModelConfig"),
    ("00", "check_recipe", pc.TrainConfig(), "at most 150 steps"),
    ("00", "check_recipe", pc.TrainConfig(steps=150, batch_size=17), "of at most 16 windows"),
    ("00", "check_recipe", pc.TrainConfig(steps=20, batch_size=2), "You may use 150 steps of 16 windows"),
    ("00", "check_recipe", pc.TrainConfig(steps=150, batch_size=16, seed=7), "Change one setting at a time"),
    ("00", "check_recipe", pc.TrainConfig(steps=150, batch_size=16, learning_rate=30.0), "jump over the goal"),
    ("00", "check_recipe", pc.TrainConfig(steps=150, batch_size=16, seq_len=64), "stopped with ValueError"),
    ("00", "check_is_causal", lambda model, ids: None, "it returned None, wanted True or False"),
    ("00", "check_is_causal", lambda model, ids: "True", "wanted True or False"),
    ("00", "check_is_causal", lambda model, ids: torch.ones(2), "stopped with RuntimeError"),
    ("00", "check_is_causal", lambda model, ids: 1 / 0, "ZeroDivisionError"),
    ("00", "check_is_causal", lambda model, ids: False, "of a healthy GPT it says False"),
    ("00", "check_is_causal", lambda model, ids: True, "of a model like B it says True"),
    *[("00", "check_is_causal", lambda m, ids, t=t: passes_at(m, ids, t), "it says True") for t in range(12)],
    ("00", "check_is_causal", lambda model, ids: passes_at(model, ids, 3), "whose answer at 9 depends on 10 it says True"),
    ("00", "check_is_causal", lambda model, ids: not any_past_moves(model, ids), "does not read its text it says True"),
    ("00", "check_is_causal", lambda model, ids: not leaks(model.train(), 12, range(1, 12)), "with dropout it says False"),
    ("01", "check_train", lambda text, n: None, "it returned nothing"),
    ("01", "check_train", lambda text, n: 1 / 0, "ZeroDivisionError"),
    ("01", "check_train", lambda text, n: 7, "TypeError"),
    ("01", "check_train", lambda text, n: ..., "it returned nothing"),
    ("01", "check_train", lambda text, n: [(b"t", b"h")] * n, "these are pairs of pieces of text"),
    ("01", "check_train", lambda text, n: [("t", "h")] * n, "these are pairs of pieces of text"),
    ("01", "check_train", lambda text, n: [(..., None)] * n, "a list of pairs of ids"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, 1) * n, "no pair has a new id in it"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, split=str.split), "the spaces are missing"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, often=1), "wherever it occurs"),
    ("01", "check_train", lambda text, n: [tuple(i + (i > 255) for i in p) for p in faulty_bpe(text, n)], "256, not 257"),
    ("01", "check_train", lambda text, n: pc.learn_bpe(text, 256 + n), "without learn_bpe"),
    ("01", "check_train", lambda text, n: [], "merge 0 of 25 should be"),
    ("01", "check_train", lambda text, n: [*faulty_bpe(text, n), (1, 2)], "merge 25 of 25 should be []"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, split=lambda text: [text]), "reaches over a space"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, weigh=False), "has to count ten times"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, best=max), "not the largest"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, best=lambda pairs: pairs[0]), "not the one met first"),
    ("01", "check_train", lambda text, n: faulty_bpe(text, n, ids=[bytes([i]) for i in range(256)]), "Take BYTES.index"),
    ("01", "check_train", lambda text, n: faulty_bpe(text[:3280], 25), "of 768 should be"),
    ("01", "check_tokenizer", (lambda text, merges: None, bpe_decode), "encode returned nothing"),
    ("01", "check_tokenizer", (lambda text, merges: 1 / 0, bpe_decode), "ZeroDivisionError"),
    ("01", "check_tokenizer", (lambda text, merges: 7, bpe_decode), "TypeError"),
    ("01", "check_tokenizer", (lambda text, merges: list(text.encode()), bpe_decode), "no merge was applied"),
    ("01", "check_tokenizer", (lambda text, merges: lesson("01")["leftmost"](text), bpe_decode), "the one learned first"),
    ("01", "check_tokenizer", (lambda text, merges: lesson("01")["longest"](text), bpe_decode), "is not BPE"),
    ("01", "check_tokenizer", (lambda text, merges: lesson("01")["backwards"](text), bpe_decode), "applied backwards"),
    ("01", "check_tokenizer", (lambda text, merges: ..., bpe_decode), "encode returned nothing"),
    ("01", "check_tokenizer", (lambda text, merges: pc.bpe.encode(text), bpe_decode), "without bpe"),
    ("01", "check_tokenizer", (lambda text, merges: [0], bpe_decode), "encode(' forsooth') gave [0]"),
    ("01", "check_tokenizer", (bpe_encode, lambda ids, merges: None), "gave 'None'"),
    ("01", "check_tokenizer", (bpe_encode, lambda ids, merges: 1 / 0), "ZeroDivisionError"),
    ("01", "check_tokenizer", (bpe_encode, lambda ids, merges: "".join(bpe_decode([i], merges) for i in ids)), "two tokens"),
    ("01", "check_tokenizer", (bpe_encode, lambda ids, merges: bpe_bytes(ids).decode()), "errors='replace'"),
    ("01", "check_tokenizer", (bpe_encode, lambda ids, merges: bpe_bytes(ids).decode(errors="ignore")), "gave ''"),
    ("01", "check_bits", (1.264, 1.247, "B"), "A is still in nats"),
    ("01", "check_bits", (1.30 / math.log(2), 4.05 / math.log(2), "A"), "A's bits are per token"),
    ("01", "check_bits", (1.8239, 153_900 / 120_000 / math.log(2), "B"), "you divided by characters"),
    ("01", "check_bits", (1.264 * math.log(2), 0.0, "B"), "for A, divide by ln 2"),
    ("01", "check_bits", (1.8, 1.8, "B"), "A is close. Give two decimals"),
    ("01", "check_bits", (..., "2 bits", "B"), "put a number for B"),
    ("01", "check_bits", (1.82, 1.80, ...), 'which is better, "A" or "B"?'),
    ("01", "check_bits", (1.82, 1.80, "A"), "Compare the bits"),
    ("01", "check_bits", (torch.ones(2), math.nan, None), "B has nats per token x tokens / bytes / ln 2"),
    ("01", "check_better", [], 'which is better, "A" or "B"?'),
    ("01", "check_stream", lambda chunks: None, "it returned nothing"),
    ("01", "check_stream", lambda chunks: 7, "TypeError"),
    ("01", "check_stream", lambda chunks: [chunk.decode() for chunk in chunks], "UnicodeDecodeError"),
    ("01", "check_stream", lambda chunks: [chunk.decode(errors="replace") for chunk in chunks], "has to wait"),
    ("01", "check_stream", lambda chunks: [chunk.decode(errors="ignore") for chunk in chunks], "has to wait"),
    ("01", "check_stream", lambda chunks: [b"".join(chunks).decode(errors="replace")], "plain text can be shown at once"),
    ("01", "check_stream", lambda chunks: incremental(chunks, "ignore"), "do not wait for it"),
    ("01", "check_stream", lambda chunks: what_is_new(chunks), "shown at once"),
    ("02", "check_bigram", lambda train, val, V: None, "it returned nothing"),
    ("02", "check_bigram", lambda train, val, V: "2.48 nats", "it stopped, or gave no number: ValueError"),
    ("02", "check_bigram", lambda train, val, V: 1 / 0, "ZeroDivisionError"),
    ("02", "check_bigram", lambda train, val, V: torch.zeros(2), "gave no number"),
    ("02", "check_bigram", lambda train, val, V: math.nan, "it gave nan, wanted"),
    ("02", "check_bigram", lambda train, val, V: -bigram(train, val, V), "sign"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V) * (len(val) - 1), "the sum"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V) / math.log(2), "bits"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V) * (1 - 1 / len(val)), "over the pairs"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, added=1), "its sum grows by V, not by 1"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V).exp(), "perplexity"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, keepdim=False), "keepdim"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val.flip(0), V), "the row is the character before"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, plus=0), "Add 1"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, train, V), "the loss on the training text"),
    ("02", "check_bigram", lambda train, val, V: bigram(val, val, V), "counted in the validation text"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, dim=0), "shares of columns"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, repeats=False), "counts repeats once"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, plus="zeros"), "not only to zeros"),
    ("02", "check_bigram", lambda train, val, V: bigram(train, val, V, mean_first=True), "-ln of the mean p"),
    ("02", "check_trigram", lambda weight, ids, rate: None, "it returned None"),
    ("02", "check_trigram", lambda weight, ids, rate: "low", "it stopped with TypeError"),
    ("02", "check_trigram", lambda weight, ids, rate: weight.rows(ids), "it stopped with AttributeError"),
    ("02", "check_trigram", lambda weight, ids, rate: torch.zeros(2, 7, 6), "it stopped with"),
    ("02", "check_trigram", lambda weight, ids, rate: 1.7, "but the loss is"),
    ("02", "check_trigram", trigram_step(lambda weight, a, b: weight[b, a]), "have changed places"),
    ("02", "check_trigram", trigram_step(lambda weight, a, b: weight[b, b]), "the second character only, twice"),
    ("02", "check_trigram", trigram_step(lambda weight, a, b: weight[a, a]), "the first character only, twice"),
    ("02", "check_trigram", trigram_step(lambda weight, a, b: weight.mean(0)[b]), "the second character only"),
    ("02", "check_trigram", trigram_step(lambda weight, a, b: weight.mean(1)[a]), "the first character only"),
    ("02", "check_trigram", trigram_step(lambda weight, a, b: weight[a, b].softmax(-1)), "leave the softmax to it"),
    ("02", "check_trigram", trigram_step(target=1), "not the second of them"),
    ("02", "check_trigram", trigram_step(total=14), "this is the sum"),
    ("02", "check_trigram", trigram_step(in_place=False), "change it in place"),
    ("02", "check_trigram", trigram_step(sign=1), "goes uphill"),
    ("02", "check_trigram", trigram_step(clear=False), "they add up"),
    ("02", "check_trigram", trigram_step(sign=-0.5), "by rate"),
    ("02", "check_trigram", trigram_step(sign=-3), "moved to a wrong place"),
    ("02", "check_mixed", lambda counts, context, char, extra, V: None, "it gave None, wanted"),
    ("02", "check_mixed", lambda counts, context, char, extra, V: "p", "it stopped with ValueError"),
    ("02", "check_mixed", lambda counts, context, char, extra, V: 1 / 0, "it stopped with ZeroDivisionError"),
    ("02", "check_mixed", lambda counts, context, char, extra, V: 0.123, "it gave 0.123, wanted"),
    ("02", "check_mixed", mixed(below=0), "the imagined ones count too"),
    ("02", "check_mixed", mixed(down=False), "pass down its own mixture"),
    ("02", "check_mixed", back_off, "that is back-off"),
    ("02", "check_mixed", mixed(order=lambda ends: ends[::-1]), "the whole context comes last"),
    ("02", "check_mixed", mixed(order=lambda ends: [ends[-1][:i] for i in range(len(ends))]), "shorten from the left"),
    ("02", "check_mixed", mixed(order=lambda ends: ends[1:]), "begin with the empty context"),
    ("02", "check_mixed", mixed(start=0), "is 1 / V, not 0"),
    ("02", "check_choice", lambda sample, candidates, loss: None, "it gave None, wanted one of"),
    ("02", "check_choice", lambda sample, candidates, loss: 7, "it gave 7, wanted one of"),
    ("02", "check_choice", lambda sample, candidates, loss: 10, "it never asked for a loss"),
    ("02", "check_choice", lambda sample, candidates, loss: best_of(candidates, loss, sample, sample), "the smallest EXTRA"),
    ("02", "check_choice", lambda sample, candidates, loss: best_of(candidates, loss, sample, sample[-4000:]), "counted too"),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates, loss, sample, lesson("02")["val"][:5000]),
        "that is the validation text",
    ),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates, loss, sample[-4000:], sample[:-4000]),
        "count in the smaller part",
    ),
    ("02", "check_choice", lambda sample, candidates, loss: best_of(candidates, loss, sample, ""), "is empty"),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates[:2], loss, sample[:-4000], sample[-4000:]),
        "try every candidate",
    ),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates, loss, sample[:-4000], sample[-4000:], max),
        "was better than",
    ),
    ("02", "check_choice", lambda sample, candidates, loss: loss(None, sample, 1), "it stopped with TypeError"),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates, loss, sample[:-2000], sample[-2000:]) and 10,
        "was better than 10",
    ),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates, loss, sample[:-50], sample[-50:]),
        "fewer than 2,000",
    ),
    (
        "02",
        "check_choice",
        lambda sample, candidates, loss: best_of(candidates, loss, sample[:-2000], sample[-4500:]),
        "counted too",
    ),
    ("02", "check_choice", lambda sample, candidates, loss: True, "it gave True, wanted one of"),
    ("02", "check_choice", lambda sample, candidates, loss: torch.ones(2), "not yet"),
    ("02", "check_sigma", lambda a, b, k: None, "it gave None, wanted"),
    ("02", "check_sigma", lambda a, b, k: 1 / 0, "it stopped with ZeroDivisionError"),
    ("02", "check_sigma", lambda a, b, k: a - b, "it stopped with"),
    ("02", "check_sigma", lambda a, b, k: 0.01, "it gave 0.01, wanted"),
    ("02", "check_sigma", lambda a, b, k: ((a.var() + b.var()) / k).sqrt(), "Here both see the same"),
    ("02", "check_sigma", lambda a, b, k: abs(a.std() - b.std()) / k**0.5, "not their σ"),
    ("02", "check_sigma", lambda a, b, k: (a.std() + b.std()) / k**0.5, "do not add their σ"),
    ("02", "check_sigma", lambda a, b, k: (a - b).std(), "the σ of one window"),
    ("02", "check_sigma", lambda a, b, k: (a - b).std() / k, "the square root of k"),
    ("02", "check_sigma", lambda a, b, k: (a - b).var() / k, "a variance"),
    ("02", "check_sigma", lambda a, b, k: (a - b).std() / len(a) ** 0.5, "not over all n"),
    ("02", "check_sigma", lambda a, b, k: (a - b).mean(), "the difference itself"),
    ("03", "check_attention", lambda *given: None, "it returned None, wanted a tensor (7, 5)"),
    ("03", "check_attention", lambda *given: 1 / 0, "stopped with ZeroDivisionError"),
    ("03", "check_attention", lambda x, q, k, v: (x @ q) @ (x @ k).T, "it returned torch.Size([7, 7])"),
    ("03", "check_attention", one_head(masked=False), "positions see their own future"),
    ("03", "check_attention", one_head(root=False), "not divided by √C"),
    ("03", "check_attention", lambda x, q, k, v: one_head()(x, k, q, v), "query and key have changed places"),
    ("03", "check_attention", one_head(masked_after=True), "the mask comes after the softmax"),
    ("03", "check_attention", lambda x, q, k, v: one_head()(x, q, k, torch.eye(5)), "it is x that is mixed"),
    ("03", "check_attention", one_head(itself=False), "a position cannot see itself"),
    ("03", "check_attention", one_head(dim=0), "the wrong dimension"),
    ("03", "check_attention", one_head(divisor=5), "divided by C, wanted √C"),
    ("03", "check_attention", one_head(divisor=math.sqrt(7)), "divided by √T, wanted √C"),
    ("03", "check_attention", one_head(masked=False, root=False), "neither mask nor division"),
    ("03", "check_attention", one_head(hide=lambda future: future.T), "hides the past and shows the future"),
    ("03", "check_attention", one_head(hide=lambda future: ~future), "the wrong way round"),
    ("03", "check_attention", one_head(hidden_score=0.0), "Make them −∞"),
    ("03", "check_attention", one_head(hide=lambda future: future.triu(2)), "can see t + 1, its answer"),
    ("03", "check_attention", lambda x, q, k, v: one_head()(x, q, v, k), "keys and values have changed places"),
    ("03", "check_attention", lambda x, q, k, v: one_head()(x, k, k, v), "keys are compared with keys"),
    ("03", "check_attention", lambda x, q, k, v: x @ v + 1, "row 0 is the first that differs"),
    ("03", "check_attention", lambda x, q, k, v: one_head()(x, q, k, v) + torch.eye(7)[:, 2:], "row 2 is the first"),
    ("03", "check_neighbour_head", lambda: (..., ...), "put two matrices in place of the dots"),
    ("03", "check_neighbour_head", lambda: None, "not yet: TypeError"),
    ("03", "check_neighbour_head", lambda: (torch.eye(8), 30 * torch.eye(8)), "looks at itself"),
    ("03", "check_neighbour_head", lambda: (torch.eye(8), 30 * torch.eye(8).roll(-1, 1)), "Swap the two"),
    ("03", "check_neighbour_head", lambda: (torch.eye(8), 8 * torch.eye(8).roll(1, 1)), "make the scores larger"),
    ("03", "check_neighbour_head", lambda: (torch.eye(8), math.inf * torch.eye(8)), "infinite numbers"),
    ("03", "check_neighbour_head", lambda: (torch.eye(8), torch.zeros(8, 8)), "position 7 gives 12% to position 6"),
    ("03", "check_neighbour_head", lambda: (torch.eye(3), torch.eye(3)), "of the shapes ((3, 3), (3, 3))"),
    ("03", "check_find_leak", lambda model, T: ..., "on the model 'causal' it stopped with TypeError"),
    ("03", "check_find_leak", lambda model, T: None, "for the model 'without a mask' it gave None, but there is a leak"),
    ("03", "check_find_leak", lambda model, T: (0, 1), "for the model 'causal' it gave (0, 1), but there is no leak"),
    ("03", "check_attention", one_head(divisor=2), "not yet: row 1 is the first that differs"),
    ("03", "check_find_leak", lambda model, T: (-1, T - 1), "it gave (-1, 11)"),
    ("03", "check_find_leak", leak_of_the_last_token, "try every position"),
    ("03", "check_find_leak", any_change_at_all, "is rounding, not a leak"),
    ("04", "check_multi_head", lambda C, nh, block_size: torch.nn.Linear(C, C), "the weights bias, weight; wanted c_attn"),
    ("04", "check_multi_head", lambda C, nh, block_size: None, "AttributeError"),
    ("04", "check_multi_head", ..., "TypeError"),
    ("04", "check_multi_head", several_heads(lambda self, x: None), "for x (2, 10, 32) it returned None"),
    ("04", "check_multi_head", several_heads(lambda self, x: x[0]), "it returned torch.Size([10, 32])"),
    ("04", "check_multi_head", several_heads(lambda self, x: 1 / 0), "ZeroDivisionError"),
    ("04", "check_multi_head", several_heads(lambda self, x: x), "other numbers than the core's"),
    ("04", "check_multi_head", several_heads(stored_mask=True), "not stored with the weights: persistent=False"),
    ("04", "check_multi_head", several_heads(bug="mask"), "the future is not masked"),
    ("04", "check_multi_head", several_heads(bug="late"), "the mask comes after the softmax"),
    ("04", "check_multi_head", several_heads(bug="split"), "the right shape, the wrong content"),
    ("04", "check_multi_head", several_heads(bug="join"), "on the way back, transpose"),
    ("04", "check_multi_head", several_heads(bug="root"), "the root of the head size"),
    ("04", "check_multi_head", several_heads(bug="one head"), "a single head of size C"),
    ("04", "check_multi_head", several_heads(bug="order"), "query, key, value, in this order"),
    ("04", "check_multi_head", several_heads(bug="mixed"), "the numbers of a head are neighbours"),
    ("04", "check_multi_head", several_heads(bug="packed"), "query, key and value first"),
    ("04", "check_multi_head", several_heads(lambda self, x: x @ x.mT + torch.ones(16, 16)), "future[:T, :T]"),
    ("04", "check_multi_head", several_heads(bug="softmax"), "each row must sum to 1"),
    ("04", "check_multi_head", several_heads(bug="c_proj"), "c_proj is missing"),
    ("04", "check_ablate", lambda model, layer, head: None, "it changed nothing"),
    ("04", "check_ablate", lambda model, layer, head: 1 / 0, "ZeroDivisionError"),
    ("04", "check_ablate", lambda model, layer, head: rows_of_c_proj(model, layer, head), "head 3 owns the columns 96 to 127"),
    ("04", "check_ablate", lambda model, layer, head: scale_columns(model.h[0], head, 0), "should change h.2.attn.c_proj"),
    ("04", "check_ablate", lambda model, layer, head: scale_columns(model.h[layer], head, 2), "but they are not 0"),
    ("04", "check_ablate", lambda model, layer, head: model.h[layer].attn.c_proj.weight[:, head].zero_(), "owns the columns"),
    ("04", "check_in_pieces", lambda *given: None, "it returned None, wanted a tensor (8,)"),
    ("04", "check_in_pieces", lambda q, k, v, size: [1, 2], "it returned [1, 2]"),
    ("04", "check_in_pieces", lambda q, k, v, size: v, "it returned torch.Size([4096, 8])"),
    ("04", "check_in_pieces", lambda q, k, v, size: 1 / 0, "ZeroDivisionError"),
    ("04", "check_in_pieces", lambda q, k, v, size: v[0], "Try it with one piece first"),
    ("04", "check_in_pieces", lambda q, k, v, size: (k @ q / 8**0.5).softmax(dim=0) @ v, "a tensor of 4,096 numbers"),
    ("04", "check_in_pieces", lambda *given: lesson("04")["piecewise"](*given, "mean"), "each piece's own softmax"),
    ("04", "check_in_pieces", lambda *given: lesson("04")["piecewise"](*given, "root"), "not divided by √hs"),
    ("04", "check_in_pieces", lambda *given: lesson("04")["piecewise"](*given, "rescale"), "multiply the sums by exp"),
    ("04", "check_in_pieces", lambda q, k, v, size: in_pieces_without_largest(q, k, v, size), "exp overflows"),
    ("05", "check_gpt", lambda: little_gpt(gpt=lambda self, ids: None), "logits of the shape (), wanted (B, T, V)"),
    ("05", "check_gpt", lambda: little_gpt(gpt=lambda self, ids: 1 / 0), "ZeroDivisionError"),
    ("05", "check_gpt", lambda: little_gpt(gpt=without_positions), "the positions are missing"),
    ("05", "check_gpt", lambda: little_gpt(gpt=without_last_norm), "the last LayerNorm, ln_f, is missing"),
    ("05", "check_gpt", lambda: little_gpt(block=lambda self, x: x + self.mlp(self.ln_2(x))), "the attention's contribution"),
    ("05", "check_gpt", lambda: little_gpt(block=lambda self, x: x + self.attn(self.ln_1(x))), "the MLP's contribution"),
    ("05", "check_gpt", lambda: little_gpt(block=lambda self, x: self.mlp(self.ln_2(self.attn(self.ln_1(x))))), "is added"),
    ("05", "check_gpt", lambda: little_gpt(block=post_ln), "behind the additions (Post-LN)"),
    ("05", "check_gpt", lambda: little_gpt(block=in_parallel), "the MLP must read what attention has added"),
    ("05", "check_gpt", lambda: little_gpt(block=mlp_first), "the MLP comes before attention"),
    ("05", "check_gpt", lambda: little_gpt(gpt=with_softmax), "leave the softmax out"),
    ("05", "check_gpt", lambda: little_gpt(gpt=ten_positions), "RuntimeError"),
    ("05", "check_gpt", lambda: little_gpt(gpt=two_blocks), "only two blocks are used"),
    ("05", "check_gpt", lambda: little_gpt(gpt=read_through(lambda ids: ids)), "wpe the positions 0, 1"),
    ("05", "check_gpt", lambda: little_gpt(gpt=read_through(lambda ids: 1 + torch.arange(ids.shape[1]))), "begin with 0"),
    (
        "05",
        "check_gpt",
        lambda: little_gpt(gpt=read_through(lambda ids: torch.arange(ids.shape[1]), lambda b, x: x + b(x))),
        "the block has added already",
    ),
    ("05", "check_gpt", lambda: little_gpt(gpt=lambda self, ids: self.lm_head(self.wte(ids))), "the logits differ by up to"),
    ("05", "check_gpt", lambda: little_gpt(block=no_norms), "no LayerNorm is used in the blocks"),
    ("05", "check_gpt", lambda: little_gpt(block=normed_stream), "the stream itself is normalised"),
    ("05", "check_gpt", lambda: little_gpt(block=ln_1_twice), "ln_1 is used twice"),
    ("05", "check_gpt", lambda: little_gpt(block=mlp_not_added), "the MLP's answer is not added"),
    ("05", "check_gpt", lambda: little_gpt(block=lambda self, x: None), "Block.forward returns nothing"),
    ("05", "check_gpt", lambda: little_gpt(gpt=with_log_softmax), "leave log_softmax out"),
    ("05", "check_mlp", None, "TypeError"),
    ("05", "check_mlp", lambda C: None, "AttributeError"),
    ("05", "check_mlp", torch.nn.Identity, "its parameters have the shapes {}"),
    ("05", "check_mlp", little_mlp(wide=3), "wanted {'c_fc.weight': (32, 8)"),
    ("05", "check_mlp", little_mlp(bias=False), "'c_fc.bias': (32,)"),
    ("05", "check_mlp", little_mlp(behind=lambda y, x: None), "it returned None, wanted a tensor"),
    ("05", "check_mlp", little_mlp(behind=lambda y, x: y[0]), "it returned (3, 8), wanted a tensor"),
    ("05", "check_mlp", little_mlp(behind=lambda y, x: 1 / 0), "ZeroDivisionError"),
    ("05", "check_mlp", little_mlp(between=lambda x: x), "the GELU is missing"),
    ("05", "check_mlp", little_mlp(between=F.relu), "that is ReLU"),
    ("05", "check_mlp", little_mlp(between=lambda x: F.gelu(x, approximate="tanh")), "approximation by tanh"),
    ("05", "check_mlp", little_mlp(between=lambda x: x, behind=lambda y, x: F.gelu(y)), "between the two layers"),
    ("05", "check_mlp", little_mlp(behind=lambda y, x: F.gelu(y)), "a second GELU"),
    ("05", "check_mlp", little_mlp(behind=lambda y, x: x + y), "x is added already"),
    ("05", "check_mlp", little_mlp(between=torch.tanh), "off by up to"),
    ("05", "check_layer_norm", None, "TypeError"),
    ("05", "check_layer_norm", torch.nn.Identity, "not yet: RuntimeError"),
    ("05", "check_layer_norm", little_norm(lambda self, x: None), "it returned None, wanted a tensor"),
    ("05", "check_layer_norm", little_norm(lambda self, x: 1 / 0), "ZeroDivisionError"),
    ("05", "check_layer_norm", little_norm(norm_of_pytorch), "without layer_norm"),
    ("05", "check_layer_norm", little_norm(norm_in_place), "in place"),
    ("05", "check_layer_norm", little_norm(norm_with_std), "correction=0"),
    ("05", "check_layer_norm", little_norm(normed(axis=0)), "over the batch"),
    ("05", "check_layer_norm", little_norm(normed(axis=1)), "over the positions"),
    ("05", "check_layer_norm", little_norm(normed(axis=(0, 1, 2))), "all vectors together"),
    ("05", "check_layer_norm", little_norm(normed(correction=1)), "divide by C − 1"),
    ("05", "check_layer_norm", little_norm(normed(eps=0)), "gives nan"),
    ("05", "check_layer_norm", little_norm(normed(eps=0, outside=1e-5)), "under the root"),
    ("05", "check_layer_norm", little_norm(normed(mean=0)), "the mean is not subtracted"),
    ("05", "check_layer_norm", little_norm(normed(scale=1)), "the scale, self.weight"),
    ("05", "check_layer_norm", little_norm(normed(shift=0)), "the shift, self.bias"),
    ("05", "check_layer_norm", little_norm(normed(scale=1, shift=0)), "scale and shift are missing"),
    ("05", "check_layer_norm", little_norm(normed(eps=1e-3)), "off by up to"),
    ("05", "check_count", lambda *sizes: None, "TypeError"),
    ("05", "check_count", lambda C, V, T, L: picogpt_count()(C, V, T, L) - T * C + T * T, "Is a number fixed"),
    ("05", "check_count", picogpt_count(qkv_bias=1), "which PicoGPT does not have"),
    ("05", "check_count", picogpt_count(norms=1), "one LayerNorm is missing in each block"),
    ("05", "check_count", picogpt_count(biases=0), "the biases of the MLP are missing"),
    ("05", "check_count", picogpt_count(norms=0), "both LayerNorms, or the MLP's first bias"),
    ("05", "check_count", lambda C, V, T, L: L * 12 * C * C + 2 * V * C + T * C + 2 * C + V, "12C² are the matrices only"),
    ("05", "check_count", lambda C, V, T, L: picogpt_count()(C, V, T, L) - V * C, "the head another"),
    ("05", "check_count", lambda C, V, T, L: picogpt_count()(C, V, T, L) - V * C - V, "the head is missing"),
    ("05", "check_count", lambda C, V, T, L: pc.count_parameters(pc.GPT(pc.preset("picogpt"))), "from the sizes alone"),
    ("05", "check_count", picogpt_count(last_norm=0), "the last LayerNorm is missing"),
    ("05", "check_count", picogpt_count(head_bias=0), "the bias of the head is missing"),
    ("05", "check_count", lambda C, V, T, L: picogpt_count()(C, V, T, L) - T * C, "the embeddings of the positions"),
    ("05", "check_count", lambda C, V, T, L: picogpt_count()(C, V, T, L) + 7, "off by 7"),
    ("05", "check_without", lambda model, layer, part: None, "TypeError"),
    ("05", "check_without", lambda model, layer, part: model, "those of the whole model"),
    ("05", "check_without", weight_cut, "the bias of c_proj is still added"),
    ("05", "check_without", ruined, "the model itself has changed"),
    ("05", "check_without", lambda model, layer, part: lambda ids: model(ids) + 1, "Is only that part left out"),
    ("06", "check_block", (lambda: None, "io"), "TypeError"),
    ("06", "check_block", (lambda block, x: None, "io"), "return a tensor of the shape of x"),
    ("06", "check_block", (wired_block("i"), "io"), "that is Pre-LN"),
    ("06", "check_block", (wired_block("o"), "io"), "must read through ln_1 and ln_2"),
    ("06", "check_block", (wired_block("is"), "io"), "the sum is normalised"),
    ("06", "check_block", (wired_block(""), "io"), "no LayerNorm in it"),
    ("06", "check_block", (lambda block, x: x, "io"), "For each branch, ask the drawing"),
    ("06", "check_block", (wired_block("iow"), "io"), "they are swapped"),
    ("06", "check_block", (wired_block("ow"), "o"), "ln_1 and ln_2 are not needed"),
    ("06", "check_block", (wired_block("io1"), "io"), "The MLP has its own two"),
    ("06", "check_block", (wired_block("o1"), "o"), "The MLP has ln_2_out"),
    ("06", "check_block", (mlp_of_the_old_x, "io"), "not the old x"),
    ("06", "check_block", (copy_carried_on, "io"), "Add to the stream itself"),
    ("06", "check_block", (wired_block("ioh"), "io"), "what the MLP writes is not normalised"),
    ("06", "check_block", (wired_block("io"), "o"), "must read the stream as it is"),
    ("06", "check_placement", lambda block: "pre", "for a post block it said pre"),
    ("06", "check_calm", lambda net: None, "no weight has changed"),
    ("06", "check_calm", lambda net: [p.data.mul_(0.1) for p in net.parameters()], "only the c_proj weights may change"),
    ("06", "check_calm", lambda net: net.h[0].mlp.c_proj.weight.data.mul_(0.1), "six blocks write with 12"),
    ("06", "check_calm", shrunken(1 / math.sqrt(12)), "Smaller still?"),
    ("06", "check_calm", lambda net: net.missing, "AttributeError"),
    ("06", "check_calm", weights_replaced, "Change the old one in place"),
    ("06", "check_conditions", lambda: None, "TypeError"),
    ("06", "check_conditions", lambda: ("small", 0.01, 0), "ValueError"),
    ("06", "check_conditions", lambda: ("xavier", 0.01, 0), "Post-LN learns nothing"),
    ("06", "check_placement", lambda block: "pre" if block.pre else "post", "AttributeError"),
    ("07", "check_fold", lambda attn: attn.c_attn.bias[64:].zero_(), "c_proj's bias is as it was"),
    ("07", "check_fold", lambda attn: attn.c_attn.bias.zero_(), "leave the biases of query and key alone"),
    ("07", "check_fold", lambda attn: None, "is not 0"),
    ("07", "check_fold", lambda attn: setattr(attn.c_attn, "bias", None), "keep c_attn.bias"),
    ("07", "check_fold", lambda attn: (attn.c_attn.bias[64:].zero_(), attn.c_proj.bias.fill_(math.nan)), "the output moved"),
    ("07", "check_fold", value_bias_folded(lambda W, b: b), "is W @ b, not b"),
    ("07", "check_fold", value_bias_folded(lambda W, b: b @ W), "take W @ b"),
    ("07", "check_fold", lambda attn: 1 / 0, "ZeroDivisionError"),
    ("07", "check_fold", value_bias_folded(lambda W, b: W @ b, add=False), "a bias of its own already"),
    ("07", "check_fold_norm", lambda ln, linear: None, "ln.weight must be 1"),
    ("07", "check_fold_norm", norm_folded(weight=False), "must take up ln.weight"),
    ("07", "check_fold_norm", norm_folded(rows=True), "each COLUMN"),
    ("07", "check_fold_norm", norm_folded(late=True), "made with the new weight"),
    ("07", "check_fold_norm", norm_folded(bias=False), "ln.bias is lost"),
    ("07", "check_fold_norm", lambda ln, linear: (norm_folded()(ln, linear), linear.bias.add_(1)), "the old one plus"),
    ("07", "check_verdict", lambda changed, base: ..., "you say Ellipsis"),
    ("07", "check_verdict", verdict_of(pairs=False), "Pair them"),
    ("07", "check_verdict", verdict_of(sign=-1), "is better, you say"),
    ("07", "check_verdict", verdict_of(t=1.96), "t is 4.303"),
    ("07", "check_verdict", verdict_of(root=False), "s / √n, not s"),
    ("07", "check_verdict", verdict_of(under=3), "s is over n − 1"),
    ("07", "check_verdict", lambda changed, base: "better" if sum(changed) < sum(base) else "worse", "t · s / √n"),
    ("08", "check_shared", lambda model: model.h[0] is model.h[1], "two blocks that share the weight of mlp.c_fc"),
    ("08", "check_shared", lambda model: True, "a right model"),
    ("08", "check_shared", lambda model: torch.equal(model.h[0].ln_1.weight, model.h[-1].ln_1.weight), "wanted False. Equal"),
    ("08", "check_shared", lambda model: pc.count_parameters(model) < 2_466_369, "a right one, two layers"),
    ("08", "check_shared", lambda model: shared_anywhere(model.named_parameters), "a tied head"),
    ("08", "check_shared", lambda model: len({id(b.mlp.c_fc.weight) for b in model.h}) < len(model.h), "attn.c_proj"),
    ("08", "check_shared", lambda model: shared_matrices(model, equal=True), "Equal is not the same"),
    ("08", "check_shared", lambda model: shared_matrices(model, first_only=True), "not only with block 0"),
    ("08", "check_shared", lambda model: shared_matrices(model, only=("c_fc.weight", "attn.c_proj.weight")), "of ln_2"),
    ("08", "check_shared", lambda model: shared_matrices(model, only="weight"), "share a bias"),
    ("08", "check_shared", lambda model: None, "for a right model it gave None"),
    ("08", "check_shared", ..., "TypeError"),
    ("08", "check_first", lambda *given: None, "Is the name returned?"),
    ("08", "check_first", ..., "TypeError"),
    ("08", "check_first", lambda *given: 1 / 0, "ZeroDivisionError"),
    ("08", "check_first", lambda *given: "h.1", "Allow for rounding"),
    ("08", "check_first", lambda *given: torch.ones(2), "The first in the order of `pairs` is wanted"),
    ("08", "check_first", first_part(limit=0), "Allow for rounding"),
    ("08", "check_first", first_part(which=-1), "That is the last one"),
    ("08", "check_first", first_part(of=1), "the name in the golden model"),
    ("08", "check_first", first_part(rows=slice(1)), "Compare all rows and all positions"),
    ("08", "check_first", first_part(positions=slice(-1, None)), "Compare all rows and all positions"),
    ("08", "check_first", first_part(evaluate=False), "Call eval() on both models first"),
    ("08", "check_first", first_part(clean=False), "which is right, but 8 hooks are left behind"),
    ("08", "check_first", first_part(nan=False), "`NaN > 1e-4` is False"),
    ("08", "check_first", first_part(limit=0.05), "the limit is 1e-4"),
    ("08", "check_first", first_part(measure=lambda a, b: (a - b).abs().mean()), "no mean or norm"),
    ("08", "check_first", first_part(measure=lambda a, b: (a - b).max()), "abs() before max()"),
    ("08", "check_first", first_part(measure=lambda a, b: (b - a).max()), "and abs() first"),
    ("08", "check_first", first_part(measure=lambda a, b: (a - b).sum().abs()), "Compare number by number"),
    ("08", "check_first", first_part(measure=lambda a, b: (a.norm() - b.norm()).abs()), "no mean or norm"),
    ("08", "check_guilty", lambda *given: None, "TypeError"),
    ("08", "check_guilty", ..., "TypeError"),
    ("08", "check_guilty", lambda *given: 1 / 0, "ZeroDivisionError"),
    ("08", "check_guilty", lambda *given: "h.1.mlp", "What follows a fault is not guilty"),
    ("08", "check_guilty", lambda *given: set(), "A part is missing"),
    ("08", "check_guilty", wrong_parts(nan=False), "`NaN > 1e-4` is False"),
    ("08", "check_guilty", wrong_parts(dot=""), "mind the dot"),
    ("08", "check_guilty", wrong_parts(swapped=True), "Ask each part by itself"),
    ("08", "check_guilty", wrong_parts(containers=True), "What contains a guilty part is not guilty itself"),
    ("08", "check_guilty", wrong_parts(in_the_run=True), "Does each part get the golden input?"),
    ("08", "check_guilty", wrong_parts(only_first=True), "One fault hides another"),
    ("08", "check_guilty", wrong_parts(clean=False), "hooks are left on the models"),
    ("09", "check_tests", ..., "give a list of functions"),
    ("09", "check_tests", [], "give a list of functions"),
    ("09", "check_adamw", None, "stopped with TypeError"),
    ("09", "check_adamw", lambda *given: None, "it returned None, wanted (w, m, v)"),
    ("09", "check_adamw", lambda *given: given[0], "wanted (w, m, v)"),
    ("09", "check_adamw", lambda *given: (1.0, 2.0, 3.0), "w came back as 1.0"),
    ("09", "check_adamw", lambda w, *given: (w, w[0], w), "m came back as tensor"),
    ("09", "check_adamw", lambda w, *given: (w > 0, w, w), "w came back as tensor"),
    ("09", "check_adamw", lambda w, *given: (w, w, w), "after step 1 the first number of w is"),
    ("09", "check_adamw", lambda w, *given: (w * math.nan, w, w), "after step 1 w holds nan or inf"),
    ("09", "check_adamw", adamw_step(slip="coupled"), "that is Adam with L2"),
    ("09", "check_adamw", adamw_step(slip="no decay"), "without the W"),
    ("09", "check_adamw", adamw_step(slip="whole decay"), "is rate · decay"),
    ("09", "check_adamw", adamw_step(slip="decay last"), "first the decay"),
    ("09", "check_adamw", adamw_step(slip="uphill"), "it climbs"),
    ("09", "check_adamw", adamw_step(slip="hats kept"), "return m and v without them"),
    ("09", "check_adamw", adamw_step(hats=lambda m, v, t: (m, v)), "without the hats"),
    ("09", "check_adamw", adamw_step(hats=lambda m, v, t: (m / (1 - 0.9**t), v)), "v needs its hat"),
    ("09", "check_adamw", adamw_step(hats=lambda m, v, t: (m / (1 - 0.9 ** (t + 1)), v / (1 - 0.99 ** (t + 1)))), "not t + 1"),
    ("09", "check_adamw", adamw_step(hats=lambda m, v, t: (m / (1 - 0.9 ** (t - 1)), v)), "t begins at 1"),
    ("09", "check_adamw", adamw_step(slip="gradient"), "it is m̂ that moves w"),
    ("09", "check_adamw", adamw_step(root=lambda v: v + 1e-8), "divide by the root"),
    ("09", "check_adamw", adamw_step(root=lambda v: v.sqrt()), "gives 0 / 0"),
    ("09", "check_adamw", adamw_step(root=lambda v: (v + 1e-8).sqrt()), "not under it"),
    ("09", "check_tests", [lambda script: script.label[0] in "ABCDEFGH"], "with AttributeError"),
    ("09", "check_tests", [None], "None is not a function"),
    ("09", "check_tests", [lambda script: None], "returned None, wanted True"),
    ("09", "check_tests", [lambda script: 1 / 0], "stopped on '-  healthy' with ZeroDivisionError"),
    ("09", "check_tests", [lambda: True], "with TypeError"),
    ("09", "check_tests", [lambda script: True], "accuses a healthy script"),
    ("09", "check_tests", [exposes("ABCDEFGH"), too_strict], "`too_strict` accuses a healthy script"),
    ("09", "check_tests", [lambda script: torch.tensor(False)], "nothing exposes 'A  never cleared': can it learn"),
    ("09", "check_tests", [exposes("ABCEFGH")], "nothing exposes 'D  shifted twice': what is the loss"),
    ("09", "check_tests", [exposes("ABCDFGH")], "nothing exposes 'E  no mask': what does a single logit"),
    ("09", "check_tests", [exposes("ABC"), exposes("DEGH")], "nothing exposes 'F  other rows': look at x and y"),
    ("09", "check_tests", [exposes("ABCDEFH")], "nothing exposes 'G  large head': what should the very first"),
    ("09", "check_tests", [exposes("ABCDEFG")], "nothing exposes 'H  by the clock': run it twice"),
    ("09", "check_stable", lambda losses_at, low, high: None, "it returned None"),
    ("09", "check_stable", lambda losses_at, low, high: "0.08", "it returned '0.08'"),
    ("09", "check_stable", lambda losses_at, low, high: low, "it returned `low` as it was given"),
    ("09", "check_stable", lambda losses_at, low, high: high, "it returned `high`"),
    ("09", "check_stable", lambda losses_at, low, high: 1 / 25, "1/h has the lowest loss"),
    ("09", "check_stable", lambda losses_at, low, high: 0.1, "2 % below 0.08 (h = 25)"),
    ("09", "check_stable", lambda losses_at, low, high: math.nan, "2 % below 0.08 (h = 25)"),
    ("09", "check_stable", bisected(lambda losses: not losses[-1] > losses[0]), "nan"),
    ("09", "check_stable", bisected(is_stable, returns=max), "return `low`, which was stable"),
    ("09", "check_stable", bisected(is_stable, stop=1.5), "Stop when high < 1.02"),
    ("09", "check_stable", bisected(is_stable, between=lambda low, high: (low + high) / 2), "runs; with the middle"),
    ("09", "check_stable", bisected(lambda losses: losses[-1] <= losses[0]), "infinite for one step"),
    ("09", "check_stable", bisected(lambda losses: is_stable(losses) and losses[1] < losses[0]), "rises first and falls later"),
    ("09", "check_stable", walked, "runs; with the middle"),
    ("09", "check_stable", lambda losses_at: 1, "stopped with TypeError"),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: None, "Return one number"),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: highest, "there is no warm-up"),
    (
        "09",
        "check_schedule",
        lambda step, steps, warmup, highest, lowest: highest * min(1, (step + 1) / warmup),
        "it never falls",
    ),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: math.nan, "the warm-up"),
    ("09", "check_schedule", scheduled(plus=0), "not 0: count step + 1"),
    ("09", "check_schedule", scheduled(last=0), "the last step is steps - 1"),
    ("09", "check_schedule", scheduled(ahead=1), "begins a step too early"),
    ("09", "check_schedule", scheduled(begin=0), "subtract `warmup`"),
    ("09", "check_schedule", scheduled(begin=0, rises=False), "there is no warm-up"),
    ("09", "check_schedule", scheduled(form=lambda done: 1 - done), "a straight line"),
    ("09", "check_schedule", scheduled(lowest=0.0), "it falls to 0"),
    ("09", "check_schedule", scheduled(over=1), "that is nanoGPT's"),
    ("09", "check_schedule", scheduled(over=1, last=0), "that is nanoGPT's"),
    ("09", "check_schedule", scheduled(late=1), "so ask step < warmup"),
    ("09", "check_schedule", hard_coded, "with steps=61, warmup=4"),
    ("09", "check_schedule", scheduled(form=lambda done: (1 - done) ** 2), "Look at the fall"),
    ("09", "check_loop", lambda net, text, config: None, "your loop changes nothing"),
    ("09", "check_loop", None, "stopped with TypeError"),
    ("09", "check_loop", whole_loop(clear=False), "never cleared"),
    ("09", "check_loop", whole_loop(share=False), "divide its loss by grad_accum"),
    ("09", "check_loop", whole_loop(clip=None), "not clipped"),
    ("09", "check_loop", whole_loop(clip="each"), "clip once in a step"),
    ("09", "check_loop", whole_loop(clip=torch.nn.utils.clip_grad_value_), "clip_grad_norm_ keeps the direction"),
    ("09", "check_loop", whole_loop(clip=clip_each_tensor), "all parameters at once"),
    ("09", "check_loop", whole_loop(parts=1), "a whole batch is in memory at once"),
    ("09", "check_loop", whole_loop(peak=lambda group, config: group["lr"]), "start from peak_lr each time"),
    ("09", "check_loop", whole_loop(peak=lambda group, config: config.learning_rate), "a peak_lr of its own"),
    ("09", "check_loop", whole_loop(rate=None), "the rate is the peak in every step"),
    ("09", "check_loop", whole_loop(rate=lambda step: step + 1), "the rate is that of the next step"),
    ("09", "check_loop", whole_loop(rate=lambda step: max(step - 1, 0)), "the rate is that of the step before"),
    ("09", "check_loop", whole_loop(draw_anew=True), "the same windows"),
    ("09", "check_loop", whole_loop(step_all=False), "there is a list of them"),
    ("09", "check_loop", whole_loop(clear=False, rate=None), "not as picogpt.train does"),
    ("09", "check_loop", whole_loop(measure=lambda losses: None), "wanted pairs"),
    ("09", "check_loop", whole_loop(measure=lambda losses: losses[:-1]), "measured after steps [2, 4], wanted [2, 4, 5]"),
    ("09", "check_loop", whole_loop(measure=lambda losses: [(s, 1.0) for s, _ in losses]), "the validation losses are not"),
    ("09", "check_recipe", ..., "give a dict"),
    ("09", "check_recipe", {"seed": 2}, "seed is fixed here"),
    ("09", "check_recipe", {"steps": 1000}, "steps is fixed here"),
    ("09", "check_recipe", {"learning_rate": -1}, "not yet: ValueError"),
    ("09", "check_recipe", {"rate": 1}, "not yet: TypeError"),
    ("09", "check_recipe", {1: 1}, "not yet: TypeError"),
    ("09", "check_recipe", {"optimizer": "adamw"}, "still above"),
    ("10", "check_reheat", lambda probs, T: (probs / T).softmax(dim=0), "not the probabilities"),
    ("10", "check_reheat", lambda probs, T: probs ** (1 / T), "add up to"),
    ("10", "check_reheat", lambda probs, T: probs**T / (probs**T).sum(), "the power is 1/τ"),
    ("10", "check_reheat", lambda probs, T: probs.log() / T, "these are not probabilities"),
    ("10", "check_reheat", lambda probs, T: probs * math.nan, "add up to nan"),
    ("10", "check_reheat", lambda probs, T: probs, "nothing has changed"),
    ("10", "check_reheat", lambda probs, T: probs / T / (probs / T).sum(), "a factor for all is lost"),
    ("10", "check_reheat", lambda probs, T: probs.softmax(0), "a softmax wants logits"),
    ("10", "check_reheat", lambda probs, T: probs.flip(0), "in 10,000 draws token"),
    ("10", "check_reheat", lambda probs, T: "warm", "it returned 'warm', wanted a tensor"),
    ("10", "check_reheat", lambda probs, T: probs[:2], "it returned (2,), wanted a tensor of shape (4,)"),
    ("10", "check_reheat", lambda probs: probs, "your function stopped with TypeError"),
    ("10", "check_top_p", lambda z, p: None, "it returned None"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, lambda sums, each: sums > p), "that crosses p must stay"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, way_back=False), "back to that of the vocabulary"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, back=lambda order: order), "`order` sorts once more"),
    ("10", "check_top_p", lambda z, p: sorted_nucleus(z, p), "sorted logits: bring them back"),
    ("10", "check_top_p", lambda z, p: sorted_nucleus(z, p)[z.argsort(descending=True)], "not `order`"),
    ("10", "check_top_p", lambda z, p: z.softmax(0).masked_fill(nucleus(z, p) == -math.inf, 0), "with a 0 for what is cut"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p) if p < 1 else z - math.inf, "the probabilities are nan"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, descending=False), "keep the unlikeliest"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, fill=0.0), "not a probability of 0"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p).softmax(0), "return logits"),
    ("10", "check_top_p", lambda z, p: z, "nothing was cut"),
    ("10", "check_top_p", lambda z, p: z.masked_fill(z.softmax(0) < p, -math.inf), "the probabilities are nan"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, lambda sums, each: sums > p, descending=False), "descending=True"),
    ("10", "check_top_p", lambda z, p: summed_logits(z, p), "add up probabilities, not logits"),
    ("10", "check_top_p", lambda z, p: nucleus(z, p, fill=-100.0), "only comes near −∞"),
    ("10", "check_top_p", lambda z, p: pc.keep_top_k(z, 5), "in 10,000 draws token"),
    ("10", "check_penalise", lambda z, seen, by: z * math.inf, "the probabilities are nan"),
    ("10", "check_min_p", lambda z, share: z.masked_fill(z.softmax(0) < share, -math.inf), "not with a fixed one"),
    ("10", "check_min_p", lambda z, share: z.masked_fill(z < share * z.max(), -math.inf), "compare probabilities"),
    ("10", "check_min_p", lambda z, share: z.masked_fill(z > z.max() + math.log(share), -math.inf), "cut what should stay"),
    ("10", "check_min_p", lambda z, share: z.masked_fill(z < z.max() + math.log(share), 0.0), "not a probability of 0"),
    ("10", "check_min_p", lambda z, share: z > 0, "in 10,000 draws token"),
    ("10", "check_min_p", lambda z, share: least(z, z.softmax(0).max() - share), "multiply, do not subtract"),
    ("10", "check_min_p", lambda z, share: z.masked_fill(z < z.max() - share, -math.inf), "subtract −ln(share), not the share"),
    ("10", "check_min_p", lambda z, share: least(z, share * z.softmax(0).max(), -1e4), "only comes near −∞"),
    ("10", "check_min_p", lambda z, share: least(z.softmax(0), share * z.softmax(0).max(), 0.0), "with a 0 for what is cut"),
    ("10", "check_min_p", lambda z, share: least(z.softmax(0), share * z.softmax(0).max()), "make it in the logits"),
    ("10", "check_penalise", lambda z, seen, by: in_text(z, seen, z / by), "divided by the penalty grows"),
    ("10", "check_penalise", lambda z, seen, by: torch.where(z > 0, z / by, z * by), "only what the text contains"),
    ("10", "check_penalise", lambda z, seen, by: penalise_each(z, seen, by), "once, however often"),
    ("10", "check_penalise", lambda z, seen, by: in_text(z, seen, torch.where(z > 0, z * by, z / by)), "other way round"),
    ("10", "check_penalise", lambda z, seen, by: z / by, "like a temperature"),
    ("10", "check_penalise", lambda z, seen, by: z, "nothing was penalised"),
    ("10", "check_penalise", lambda z, seen, by: penalise_each(z, torch.stack([*set(seen)]), by), "seen.tolist()"),
    ("10", "check_penalise", lambda z, seen, by: penalise_each(z.log_softmax(0), seen.unique(), by), "penalises log prob"),
    ("10", "check_penalise", lambda z, seen, by: penalise_each(z.softmax(0), seen.unique(), by), "penalises probabilities"),
    ("10", "check_penalise", lambda z, seen, by: in_text(z, seen, z - by), "as a presence penalty does"),
    ("10", "check_penalise", lambda z, seen, by: in_text(z, seen, z / by**2), "in 10,000 draws token"),
    ("10", "check_penalise", lambda z, seen, by: z[99], "your function stopped with IndexError"),
    ("10", "check_calibrate", lambda z, targets: 1 / heat_of(z, targets), "that is 1/τ"),
    ("10", "check_calibrate", lambda z, targets: 1, "where you started"),
    ("10", "check_calibrate", lambda z, targets: max(1, heat_of(z, targets)), "can lie below 1"),
    ("10", "check_calibrate", lambda z, targets: min(heat_of(z, targets), 1.001), "is the loss lower there"),
    ("10", "check_calibrate", lambda z, targets: min((1.7, 0.6), key=lambda T: abs(T - heat_of(z, targets))), "beside it"),
    ("10", "check_calibrate", lambda z, targets: 3.0, "is the loss lower there"),
    ("10", "check_calibrate", lambda z, targets: round(heat_of(z, targets), 1), "Smaller steps?"),
    ("10", "check_calibrate", lambda z, targets: sure_as_right(z, targets), "is it the loss you compare?"),
    ("10", "check_calibrate", lambda z, targets: -1.0, "is the loss lower there"),
    ("10", "check_calibrate", lambda z, targets: None, "it returned None, wanted a number"),
    ("10", "check_calibrate", lambda z, targets: "hot", "not yet: ValueError"),
    ("10", "check_calibrate", lambda z, targets: math.nan, "you found nan"),
    ("11", "check_append", lambda store, length, new: None, "it returned None, wanted a tensor of shape (2, 3, 4, 4)"),
    ("11", "check_append", lambda store, length, new: store[length], "it returned (3, 9, 4), wanted"),
    ("11", "check_append", lambda store, length, new: store[99], "your function stopped with IndexError"),
    ("11", "check_append", appended(returns="store"), "return only what is filled"),
    ("11", "check_append", appended(returns="new"), "return the old ones too"),
    ("11", "check_append", appended(start=0), "for 1 after 4, the new ones stand at the beginning"),
    ("11", "check_append", appended(shift=1), "they are not in the store"),
    ("11", "check_append", appended(in_place=False), "the next step will not find them"),
    ("11", "check_append", appended(forget=True), "the older ones have changed"),
    ("11", "check_append", appended(to_the_end=True), "written beyond the new positions"),
    ("11", "check_append", lambda store, length, new: torch.cat([store, new], dim=2), "the store has room for them"),
    ("11", "check_append", lambda store, length, new: 0 * appended()(store, length, new), "not what the store holds"),
    ("11", "check_mask", lambda m, n: torch.ones(m, n + m).tril(n), "make it booleans, not float32"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(n + m)[:m], "the triangle is at the top left"),
    ("11", "check_mask", lambda m, n: ~pc.causal_mask(m, past=n), "True and False are exchanged"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(m, past=n).tril(n - 1), "may also look at itself"),
    ("11", "check_mask", lambda m, n: torch.ones(m, n + m).tril(n + 1).bool(), "one position too many"),
    ("11", "check_mask", lambda m, n: torch.ones(m, n + m).bool(), "the early ones see the later ones"),
    (
        "11",
        "check_mask",
        lambda m, n: torch.cat([torch.zeros(m, n).bool(), pc.causal_mask(m)], 1),
        "all old positions are visible",
    ),
    ("11", "check_mask", lambda m, n: pc.causal_mask(m), "it returned (3, 3), wanted a tensor of shape (3, 7)"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(m, past=n).flip(1), "row 0 is [0, 0, 1, 1, 1, 1, 1]"),
    ("11", "check_mask", lambda m, n: "a triangle", "it returned 'a triangle'"),
    (
        "11",
        "check_cached_attention",
        cached(mask=lambda m, n: pc.causal_mask(n + m)[:m]),
        "for 1 after 4, the triangle is at the top",
    ),
    ("11", "check_cached_attention", cached(mask=lambda m, n: torch.ones(m, n + m).bool()), "see their own future"),
    ("11", "check_cached_attention", cached(root=False), "divide the scores by √hs"),
    ("11", "check_cached_attention", cached(late=True), "the mask comes before the softmax"),
    ("11", "check_cached_attention", cached(past=False), "the past is left out"),
    ("11", "check_cached_attention", cached(in_place=False), "are not in the stores"),
    ("11", "check_cached_attention", cached(returns="store"), "are asked, too. Use what append returns, and a mask"),
    (
        "11",
        "check_cached_attention",
        cached(returns="store", mask=lambda m, n: torch.ones(m, n + m).bool()),
        "free places of the store are asked, too",
    ),
    ("11", "check_cached_attention", lambda q, k, v, ks, vs, n: q, "not the numbers of the whole text"),
    ("11", "check_cached_attention", lambda q, k, v, ks, vs, n: k @ q, "your function stopped with RuntimeError"),
    ("11", "check_cached_attention", lambda q, k, v, ks, vs, n: ..., "it returned Ellipsis"),
    ("11", "check_greedy", lambda model, ids, n: ids, "the prompt and 30 more"),
    ("11", "check_greedy", lambda model, ids, n: pc.generate(model, ids, GREEDY), "that is the core's loop"),
    ("11", "check_greedy", continued(cache=False), "1035 tokens read. Each once makes 49"),
    ("11", "check_greedy", continued(whole=True), "is not the likeliest. Is what you read in the cache twice?"),
    ("11", "check_greedy", continued(whole=True, overflows=True), "the cache is full. Is what you read in the cache twice?"),
    ("11", "check_greedy", continued(fresh=True), "for n = 30, character 21 forgets all before it. Make one cache"),
    ("11", "check_greedy", continued(steps=30), "for n = 7, it returned (1, 50), wanted a tensor of shape (1, 27)"),
    (
        "11",
        "check_greedy",
        continued(pick=lambda z: z.argmin(1, keepdim=True)),
        "character 20 of the text is not the likeliest",
    ),
    ("11", "check_greedy", lambda model, ids, n: continued()(model, ids, n).flip(1), "the prompt comes first"),
    ("11", "check_keep_first", lambda *given: None, "for 2 of 5 guesses after 7 tokens, it returned None"),
    ("11", "check_keep_first", lambda model, cache, guesses, kept: guesses / 0, "it returned (1, 5), wanted"),
    ("11", "check_keep_first", lambda model, cache, guesses, kept: model(guesses), "not those of the guesses after this text"),
    ("11", "check_keep_first", lambda model, cache, guesses, kept: cache[kept], "your function stopped with TypeError"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: n + m), "the rejected ones are still in the cache"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: n), "the accepted ones are gone too"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: kept), "forgets the text before the guesses"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: n + m - kept), "as many are left as were rejected"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: n - kept), "the text itself got shorter"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: n + kept - 1), "cache.length is 8, wanted 9: 7 and 2"),
    ("11", "check_keep_first", kept_first(lambda n, m, kept: None), "cache.length is None, wanted 9"),
    ("11", "check_keep_first", zeroed, "what follows is not right"),
    ("11", "check_cache_bytes", lambda config, *sizes: cache_of(config, *sizes) / 2, "that is one of the two"),
    (
        "11",
        "check_cache_bytes",
        lambda c, *sizes: cache_of(c, *sizes) * c.n_head / (c.n_kv_head or 8),
        "only queries have n_head",
    ),
    ("11", "check_cache_bytes", lambda c, *sizes: cache_of(c, *sizes) / c.n_layer, "each layer has keys"),
    ("11", "check_cache_bytes", lambda c, *sizes: cache_of(c, *sizes) * c.n_head, "C / n_head numbers"),
    ("11", "check_cache_bytes", lambda c, texts, T, number: cache_of(c, texts, T, 1), "multiply by the bytes of each"),
    ("11", "check_cache_bytes", lambda c, texts, T, number: cache_of(c, 1, T, number), "that is for one text"),
    ("11", "check_cache_bytes", lambda c, texts, T, number: cache_of(c, texts, c.block_size, number), "a whole window"),
    ("11", "check_cache_bytes", lambda config, *sizes: 1e9, "1,000,000,000.0, wanted 7,864,320"),
    ("11", "check_cache_bytes", lambda config, *sizes: True, "it returned True, wanted a number"),
    ("11", "check_cache_bytes", lambda config, *sizes: config.heads, "your function stopped with AttributeError"),
    ("11", "check_cache_bytes", lambda config, *sizes: math.nan, "not yet: for PicoGPT, nan"),
    ("11", "check_ragged", lambda pads, width: None, "return positions, and mask"),
    ("11", "check_ragged", lambda pads, width: pads[width], "your function stopped with IndexError"),
    ("11", "check_ragged", lambda pads, width: (pads, pads), "positions: it returned (3,), wanted"),
    ("11", "check_ragged", lambda pads, width: (ragged(pads, width)[0], pads), "mask: it returned (3,), wanted"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: t + 0 * pads), "each row counts from its own first token"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: t - pads), "wpe has no row -5"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: (t - pads) % 999), "wpe has no row 998"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: (t - pads + 1).clamp(min=0)), "and its first 5 are padding"),
    (
        "11",
        "check_ragged",
        ragged_with(position=lambda t, pads: (t - pads).clamp(min=0).float()),
        "positions are whole numbers",
    ),
    ("11", "check_ragged", ragged_with(sees=lambda t, pads: (t[:, None] >= t) & (pads >= 0)[..., None, None]), "sees padding"),
    (
        "11",
        "check_ragged",
        ragged_with(sees=lambda t, pads: (t >= pads)[:, None, None] & (t[:, None] >= t)),
        "a softmax by hand gives nan",
    ),
    (
        "11",
        "check_ragged",
        ragged_with(sees=lambda t, pads: (t >= pads)[:, None, None].expand(-1, 1, len(t), -1)),
        "its own future",
    ),
    (
        "11",
        "check_ragged",
        ragged_with(sees=lambda t, pads: torch.eye(len(t)).bool().expand(len(pads), 1, -1, -1)),
        "all of its own past",
    ),
    ("12", "check_accept", lambda guesses, p, q, generator: None, "return two things"),
    ("12", "check_accept", lambda guesses, p, q, generator: (3, 0), "of 2 guesses it accepted 3"),
    ("12", "check_accept", lambda guesses, p, q: (0, 0), "TypeError"),
    ("12", "check_accept", lambda guesses, p, q, generator: ("all", 0), "ValueError"),
    ("12", "check_accept", lambda guesses, p, q, generator: (0, 0), "χ² is"),
    ("12", "check_accept", accepted(redraw=lambda p, q: q), "not from all of the target"),
    ("12", "check_accept", accepted(chance=lambda p, q: p / q), "upside down"),
    ("12", "check_accept", accepted(chance=lambda p, q: q), "not with target alone"),
    ("12", "check_accept", accepted(shift=1), "not row i + 1"),
    ("12", "check_accept", accepted(chance=lambda p, q: (q >= p).float()), "not a fixed bar"),
    ("12", "check_accept", accepted(chance=lambda p, q: 1 + p), "every guess is accepted"),
    ("12", "check_accept", accepted(redraw=lambda p, q: p), "the draft draws again"),
    ("12", "check_accept", accepted(redraw=lambda p, q: (q - p >= max(q - p)).float()), "drawn, not the likeliest of them"),
    ("12", "check_accept", accepted(redraw=lambda p, q: (q - p).abs()), "cut the difference off"),
    ("12", "check_accept", accepted(redraw=lambda p, q: (p - q).clamp(min=0)), "not draft - target"),
    ("12", "check_accept", accepted(last=1), "the last row gives one more"),
    ("12", "check_accept", accepted(free=torch.argmax), "the letter after the last guess is drawn, too"),
    ("12", "check_accept", accepted(free=lambda end: (end < 0.2).int().argmax()), "χ² is"),
    ("12", "check_accept", accepted(judged=1), "judge all guesses, not only the first"),
    ("12", "check_accept", accepted(extra=1), "i of them, not i + 1"),
    ("12", "check_accept", lambda guesses, p, q, generator: [3, 0], "of 2 guesses it accepted 3"),
    ("12", "check_accept", drawn_and_compared, "exact, but it accepts too few"),
    ("12", "check_speculate", lambda *given: None, "it returned None"),
    ("12", "check_speculate", lambda *given: given[2], "it returned (1, 7)"),
    ("12", "check_speculate", lambda *given: pc.generate(given[0], given[2], given[5]), "write the loop yourself"),
    ("12", "check_speculate", lambda *given: pc.generate_speculative(*given[:3], given[5]).ids, "write the loop yourself"),
    ("12", "check_speculate", speculated("judged by the wrong row"), "is not the target's"),
    ("12", "check_speculate", speculated("no guesses"), "calls of the target for 40 characters"),
    ("12", "check_speculate", speculated("no cache"), "are enough"),
    ("12", "check_speculate", speculated("the draft has no cache"), "the draft read"),
    ("12", "check_speculate", speculated("no forgetting"), "there is room for"),
    ("12", "check_speculate", speculated("the draft misses a guess"), "Is the draft's cache right?"),
    ("12", "check_speculate", speculated("another p_draft"), "Is row i of p_draft what guess i was drawn from?"),
    ("12", "check_speculate", speculated("the first row"), "Is row i of p_draft what guess i was drawn from?"),
    ("12", "check_speculate", speculated("the last row"), "Is row i of p_draft what guess i was drawn from?"),
    ("12", "check_speculate", speculated("the likeliest"), "Is row i of p_draft what guess i was drawn from?"),
    ("12", "check_speculate", speculated("drawn at 1.3"), "Is row i of p_draft what guess i was drawn from?"),
    ("12", "check_look_up", lambda source, text, m: None, "it returned None, wanted a string"),
    ("12", "check_look_up", lambda source, text, m: source.index("x"), "ValueError"),
    ("12", "check_look_up", looked_up(end=0), "nothing follows the end of the text itself"),
    ("12", "check_look_up", looked_up(cut=False), "at most m characters"),
    ("12", "check_look_up", looked_up(find=str.find), "the last occurrence, not the first"),
    ("12", "check_look_up", looked_up(sizes=range(3, 9)), "try the last 8 first"),
    ("12", "check_look_up", looked_up(sizes=range(8, 0, -1)), "fewer than 3 are not enough"),
    ("12", "check_look_up", looked_up(where=1), "look in `source`"),
    ("12", "check_look_up", looked_up(sizes=range(8, 4, -1)), "down to 3"),
    ("12", "check_look_up", looked_up(nothing="?"), 'return ""'),
    ("13", "check_diagnoses", None, "give a dictionary"),
    ("13", "check_diagnoses", {}, "give a dictionary"),
    ("13", "check_diagnoses", {"A": ..., "B": "no causal mask"}, "commit to a diagnosis of A"),
    ("13", "check_diagnoses", {"A": "off by one"}, "'off by one' for A is not on the list"),
    ("13", "check_diagnoses", {"F": "schedule too fast"}, "F has that, and one disease more: give a list of both"),
    ("13", "check_diagnoses", {"F": ["schedule too fast", "healthy"]}, "the healthy answer. Is that what F shows"),
    ("13", "check_diagnoses", {"F": []}, "commit to a diagnosis of F"),
    ("13", "check_diagnoses", {"G": "schedule too fast"}, "long before the last step. Is that what G shows"),
    ("13", "check_diagnoses", {"Z": "ids wrap round"}, "is no patient"),
    ("13", "check_diagnoses", {"A": "targets not shifted"}, "the text would repeat its last character. Is that what A shows"),
    ("13", "check_diagnoses", {"D": "part not in the optimizer"}, "and none the other way round. Is that what D shows"),
    ("13", "check_diagnoses", {"E": "learning rate too high"}, "gradients cleared. Is that what E shows"),
    ("13", "check_diagnoses", {"K": "healthy"}, "would get the healthy answer. Is that what K shows"),
    ("13", "check_diagnoses", {"I": "dropout that never stops"}, "still differ after model.eval()"),
    ("13", "check_depends_on_future", lambda model, T: None, "it returned nothing"),
    ("13", "check_depends_on_future", lambda model, T: True, "for a healthy model it gave True"),
    ("13", "check_depends_on_future", lambda model, T: False, "without a mask it gave False"),
    ("13", "check_depends_on_future", lambda model, T: leaks(model.train(), T, range(1, T)), "dropout, left in training mode"),
    ("13", "check_depends_on_future", lambda model, T: leaks(model.eval(), T, range(1, T)), "was left in evaluation mode"),
    (
        "13",
        "check_depends_on_future",
        lambda model, T: (quietly(model, T, range(1, T)), model.train())[0],
        "came in evaluation mode, and was left in training mode",
    ),
    ("13", "check_depends_on_future", lambda model, T: quietly(model, T, [T - 1]), "position 3 depends on position 5"),
    ("13", "check_depends_on_future", lambda model, T: quietly(model, T, [4]), "position 9 depends on position 11"),
    ("13", "check_depends_on_future", lambda model, T: 1 / 0, "ZeroDivisionError"),
    ("13", "check_depends_on_future", lambda model, T: torch.zeros(3), "RuntimeError"),
    ("13", "check_capstone", (), "hand over all five parts"),
    ("13", "check_capstone", mini(), "3 of 5 parts fail their test"),
    ("13", "check_capstone", mini(split=lambda ids: (ids[:900], ids[800:])), "split: 100 of 1,000 characters are in both"),
    ("13", "check_capstone", mini(split=lambda ids: (ids[:900], ids[950:])), "some are in no part"),
    ("13", "check_capstone", mini(split=lambda ids: (ids[100:], ids[:100])), "the last 100 are held out"),
    ("13", "check_capstone", mini(split=lambda ids: None), "split: TypeError"),
    ("13", "check_capstone", mini(split=lambda ids: (ids[:900], ids[900:])), "of 50 characters the last 5 are held out"),
    (
        "13",
        "check_capstone",
        mini(split=lambda ids, fraction=0.9: (ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :])),
        "of 1,000 characters the last 250 are held out",
    ),
    (
        "13",
        "check_capstone",
        mini(get_batch=lambda ids, B, T: (ids[:T], ids[2 : T + 2])),
        "4 of 5 parts fail their test. get_b",
    ),
    ("13", "check_capstone", mini(Attention=lambda *sizes: torch.nn.Identity()), "not every position notices the first one"),
    ("13", "check_capstone", mini(Attention=Later), "a change at position 7 still moves"),
    ("13", "check_capstone", mini(Attention=Sums), "the weights of a position do not add up to 1"),
    ("13", "check_capstone", mini(Attention=mini_attention(scale=1)), "gives other numbers. The scale?"),
    ("13", "check_capstone", mini(Attention=mini_attention(dropout=False)), "its dropout is gone"),
    ("13", "check_capstone", mini(Attention=mini_attention(mask=False)), "a change at position 7 still moves"),
    ("13", "check_capstone", mini(estimate_loss=lambda model, *rest: 0.0), "0.00 for a new model, wanted about ln 65"),
    ("13", "check_capstone", mini(estimate_loss=estimate(after=True)), "is left in training mode"),
    ("13", "check_capstone", mini(estimate_loss=estimate(during=None)), "it depends on the mode the model is in"),
    ("13", "check_capstone", mini(write_text=lambda model, ids, n, top_k: ids), "write_text: with top_k=1 the likeliest"),
    ("13", "check_left_out", lambda model, optimizer: None, "it returned None, wanted a set of names"),
    ("13", "check_left_out", lambda model, optimizer: "h.1", "it returned 'h.1', wanted a set of names"),
    ("13", "check_left_out", lambda model, optimizer: optimizer.params, "AttributeError"),
    ("13", "check_left_out", left_out(groups=1), "for an optimizer with everything, in two groups it names"),
    ("13", "check_left_out", lambda model, optimizer: set(), "for a block that is missing it names 0"),
    ("13", "check_left_out", left_out(frozen=True), "for a frozen embedding, which need not be there"),
    (
        "13",
        "check_left_out",
        left_out(by=lambda p: p.detach().sum().item()),
        "for a block that is missing it names 4, wanted 11",
    ),
    ("13", "check_left_out", left_out(twice=True), "for a tied head it names 2, wanted 1"),
    ("13", "check_left_out", lambda model, optimizer: set(model.state_dict()), "Are these the same objects as the optimizer's"),
    ("13", "check_left_out", lambda model, optimizer: model.wte.weight.data.zero_().new_ones(1), "the weights have changed"),
    ("14", "check_fill", lambda model, tensors: None, "wte.weight: not the file's numbers"),
    ("14", "check_fill", lambda model: None, "the good file from transformers is refused. TypeError"),
    ("14", "check_fill", filled(square=False), "h.0.attn.c_proj.weight: square, it must be transposed too"),
    ("14", "check_fill", filled(untied=True), "the head is a copy of the embedding"),
    ("14", "check_fill", filled(hub=False), "the good file from the hub is refused. ValueError: other names"),
    ("14", "check_fill", filled(missing=False), "a file without ln_f.bias passes"),
    ("14", "check_fill", filled(left_over=False), "a file with a third block passes"),
    ("14", "check_fill", filled(shapes=lambda shape: 0), "a bias of one number passes"),
    ("14", "check_fill", filled(shapes=lambda shape: shape[-1]), "a row in place of a matrix passes"),
    ("14", "check_fill", filled(error=KeyError), "KeyError where a ValueError should name"),
    ("14", "check_three", lambda weight, bias: None, "no three pairs of tensors"),
    ("14", "check_three", lambda weight, bias: [(weight, bias)], "wanted 3 pairs of (32, 32) and (32,)"),
    ("14", "check_three", lambda weight, bias: pairs(weight.chunk(3, 1), bias.chunk(3)), "are not transposed"),
    ("14", "check_three", lambda weight, bias: lesson("14")["cut"](weight, bias, (1, 0, 2)), "the order is query, key, value"),
    ("14", "check_three", lambda weight, bias: lesson("14")["cut"](weight, bias, (2, 1, 0)), "not the reverse"),
    ("14", "check_three", lambda weight, bias: lesson("14")["cut"](weight, bias, (0, 1, 1)), "where is the value?"),
    ("14", "check_three", lambda weight, bias: lesson("14")["cut"](weight, bias, heads=4), "not head by head"),
    ("14", "check_three", lambda weight, bias: [(weight[:, i::3].T, bias[i::3]) for i in range(3)], "not every third one"),
    ("14", "check_three", lambda weight, bias: pairs(weight.reshape(96, 32).chunk(3), bias.chunk(3)), "reshape does not"),
    ("14", "check_three", lambda weight, bias: pairs(weight.T.chunk(3), 3 * [bias[:32]]), "the weights are right, the biases"),
    ("14", "check_is_right", lambda model, ids, wanted: None, "it returned None"),
    ("14", "check_is_right", lambda model, ids: True, "TypeError"),
    ("14", "check_is_right", lambda model, ids, wanted: True, "square matrices are not transposed passes"),
    ("14", "check_is_right", lambda model, ids, wanted: torch.equal(model(ids), wanted), "a good model is refused"),
    ("14", "check_is_right", within(0.01, tied=True), "the wrong GELU passes"),
    ("14", "check_is_right", within(1e-4), "a copy passes"),
    ("14", "check_is_right", within(1e-4, tied=True, quiet=True), "Do not change its mode"),
    ("14", "check_is_right", within(1e-4, tied=True, of=lambda gap: gap[0, 0]), "wrong at the last position alone passes"),
    ("14", "check_is_right", within(1e-4, tied=True, of=lambda gap: gap[0, 0, 0]), "wrong at the last position alone passes"),
    ("14", "check_is_right", within(1e-4, tied=True, of=lambda gap: gap[:, -1]), "one logit of all too low passes"),
    ("14", "check_is_right", within(1e-4, tied=True, size=lambda gap: gap), "one logit of all too low passes"),
    ("14", "check_is_right", mean_surprise, "wrong at the last position alone passes"),
    ("15", "check_gigabytes", ..., "put a number"),
    ("15", "check_gigabytes", True, "put a number"),
    ("15", "check_gigabytes", 1.42, "the weights alone"),
    ("15", "check_gigabytes", 4.26, "weights and means alone"),
    ("15", "check_gigabytes", 5.68, "activations and logits are missing"),
    ("15", "check_gigabytes", 7.1, "the start of backward needs more"),
    ("15", "check_gigabytes", 7.48, "the logits are missing"),
    ("15", "check_gigabytes", 7.89, "three times at the start of backward"),
    ("15", "check_gigabytes", 5.49, "the activations of the layers are missing"),
    ("15", "check_gigabytes", 6.49, "there are two at a time"),
    ("15", "check_gigabytes", 7.3, "AdamW keeps two means"),
    ("15", "check_gigabytes", 10.13, "zero_grad has freed the gradients"),
    ("15", "check_gigabytes", 11.94, "that is attention by hand"),
    ("15", "check_gigabytes", 8.12, "GB have 10"),
    ("15", "check_gigabytes", 2.18, "float32 has 4 bytes"),
    ("15", "check_gigabytes", 123, "neither of the two sums"),
    ("15", "check_device_of", lambda env, gpus: None, "return the name of a device"),
    ("15", "check_device_of", lambda env, gpus: "cuda", "card 0 for everybody"),
    ("15", "check_device_of", lambda env, gpus: f"cuda:{env['RANK']}", "the rank counts over all machines"),
    ("15", "check_device_of", lambda env, gpus: f"cuda:{int(env['RANK']) % gpus}", "not every machine has as many cards"),
    ("15", "check_device_of", lambda env, gpus: f"cuda:{env['LOCAL_RANK']}", "not a card for each"),
    (
        "15",
        "check_device_of",
        lambda env, gpus: f"cuda:{env['LOCAL_RANK']}" if int(env["LOCAL_RANK"]) < gpus else "cpu",
        "so cpu for all",
    ),
    ("15", "check_device_of", lambda env, gpus: "cpu" if gpus < env["LOCAL_WORLD_SIZE"] else "cuda:0", "are strings"),
    ("15", "check_as_ddp", lambda nets, x, y: None, "each of 2 ranks reads 4 rows, once"),
    ("15", "check_as_ddp", lambda nets, x, y: nets(x), "nets is a list of 2 models"),
    ("15", "check_as_ddp", lambda nets, x, y: [net(x[:4]) for net in nets], "Call backward on the loss"),
    ("15", "check_as_ddp", ddp_with(split=False), "each of 2 ranks reads 4 rows, once; yours: [[8], [8]]"),
    ("15", "check_as_ddp", accumulate, "yours: [[4, 4], []]"),
    ("15", "check_as_ddp", ddp_with(once=False), "yours: [[4, 4], [4, 4]]"),
    ("15", "check_as_ddp", ddp_with(exchange=sum), "2 times too large"),
    ("15", "check_as_ddp", ddp_with(exchange=lambda grads: sum(grads) / len(grads) ** 2), "2 times too small"),
    ("15", "check_as_ddp", ddp_with(exchange=lambda grads: grads[0]), "not on the gradient of the whole batch"),
    ("15", "check_as_ddp", ddp_with(ranks=1), "on some ranks only; not on [1]"),
    ("15", "check_as_ddp", ddp_with(own=True), "where is the all-reduce?"),
    ("15", "check_predict", lambda flops, losses, c: None, "Return low and high"),
    ("15", "check_predict", lambda flops, losses, c: (1.9, 1.5), "The low end comes first"),
    ("15", "check_predict", lambda flops, losses, c: (0, 3), "that says too little"),
    ("15", "check_predict", lambda flops, losses, c: (1.45, 1.7), "that says too little"),
    ("15", "check_predict", lambda flops, losses, c: (1.5, 1.65), "width 128, training: from 1.500 to 1.650"),
    ("15", "check_predict", lambda flops, losses, c: (losses[-1].min(), losses[-1].max()), "Too high, or too narrow"),
    ("15", "check_predict", lambda flops, losses, c: (losses[-1].mean() - 0.3, losses[-1].mean()), "Wider than 0.2 nats"),
    ("15", "check_predict", lambda flops, losses, c: (losses[-1].mean() - 0.22, losses[-1].mean() - 0.03), "floor 1.5"),
    ("15", "check_predict", lambda flops, losses, c: (losses[-1].mean() - 0.19, losses[-1].mean()), "made up, floor 0"),
    ("15", "check_predict", lambda flops, losses, c: (1.2, 1.3), "Too low, or too narrow"),
    ("15", "check_predict", t_over_seeds, "made up, two powers: from 1.516 to 1.546, but it is 1.506"),
    ("16", "check_rms_norm", lambda x, w: None, "it returned None, wanted a tensor of shape (2, 3, 8)"),
    ("16", "check_rms_norm", lambda x, w: x[9], "your function stopped with IndexError"),
    ("16", "check_rms_norm", lambda x, w: "norm", "it returned 'norm'"),
    ("16", "check_rms_norm", lambda x, w: torch.nn.functional.layer_norm(x, (8,), w), "that is LayerNorm"),
    ("16", "check_rms_norm", lambda x, w: w * x / (x.square().mean(-1, keepdim=True) + 1e-5), "the root is missing"),
    ("16", "check_rms_norm", lambda x, w: w * x / (x.norm(dim=-1, keepdim=True) + 1e-5), "of the MEAN square"),
    ("16", "check_rms_norm", lambda x, w: x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(), "the weight is missing"),
    ("16", "check_rms_norm", lambda x, w: w * x * (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(), "do not multiply"),
    ("16", "check_rms_norm", lambda x, w: w * x / (x.square().mean() + 1e-5).sqrt(), "each position has its own"),
    ("16", "check_rms_norm", lambda x, w: w * x / x.square().mean(-1, keepdim=True).sqrt(), "a vector of zeros becomes nan"),
    (
        "16",
        "check_rms_norm",
        lambda x, w: w * x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-5),
        "small numbers come out wrong",
    ),
    ("16", "check_rms_norm", lambda x, w: torch.nn.functional.rms_norm(x, (8,), w, 1e-8), "small numbers come out wrong"),
    ("16", "check_rms_norm", lambda x, w: w * x / (x.square().mean(-1) + 1e-5).sqrt(), "keepdim=True"),
    (
        "16",
        "check_rms_norm",
        lambda x, w: w * x / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt(),
        "std subtracts the mean first",
    ),
    ("16", "check_rms_norm", lambda x, w: w * x / (x.std(-1, keepdim=True) + 1e-5), "std subtracts the mean first"),
    ("16", "check_rms_norm", lambda x, w: x, "divide by the root of (x²"),
    ("16", "check_centre", lambda weights: None, "wte.weight writes into the stream, and has not changed"),
    ("16", "check_centre", lambda weights: weights["wte"], "KeyError"),
    ("16", "check_centre", lambda weights: weights.clear(), "wte.weight must keep its shape"),
    ("16", "check_centre", centred(in_place=False), "wte.weight writes into the stream, and has not changed"),
    ("16", "check_centre", centred(axes={"wte.weight": 0}), "wte.weight: the other axis. What is written has 16 numbers"),
    ("16", "check_centre", centred(axes={"c_proj.weight": 1}), "h.0.attn.c_proj.weight: the other axis"),
    ("16", "check_centre", centred(axes={"c_proj.weight": None}), "h.0.attn.c_proj.weight: that is the mean of the whole"),
    ("16", "check_centre", centred(skip=("c_proj.bias",)), "h.0.attn.c_proj.bias writes into the stream, and has not"),
    ("16", "check_centre", centred(also=("c_fc.weight",)), "h.0.mlp.c_fc.weight does not write into the stream"),
    ("16", "check_centre", lambda weights: weights["wte.weight"].mul_(0.5), "wte.weight: what it writes still has a mean"),
    (
        "16",
        "check_centre",
        lambda weights: (centred()(weights), weights["wte.weight"].mul_(2)),
        "the logits move",
    ),
    ("16", "check_rotate", lambda x, t: None, "it returned None, wanted a tensor of shape (2, 3, 5, 8)"),
    ("16", "check_rotate", lambda x, t: x @ t, "your function stopped with RuntimeError"),
    ("16", "check_rotate", lambda x, t: x[..., :4], "it returned (2, 3, 5, 4)"),
    ("16", "check_rotate", lambda x, t: x, "nothing is turned"),
    ("16", "check_rotate", spun(neighbours=True), "pair i is the numbers i and i + hs/2"),
    ("16", "check_rotate", spun(sign=-1), "it turns the wrong way"),
    ("16", "check_rotate", spun(late=-1), "the second half is b cos + a sin"),
    ("16", "check_rotate", spun(angle=lambda t, s: t * 10_000.0 ** (-s / 2)), "the exponent is -i/hs"),
    ("16", "check_rotate", spun(angle=lambda t, s: t * 10_000.0**s), "a negative exponent"),
    ("16", "check_rotate", spun(angle=lambda t, s: t * torch.ones(len(s))), "all pairs turn at one speed"),
    ("16", "check_rotate", spun(angle=lambda t, s: (t - t[0]) * 10_000.0**-s), "the positions start at 0"),
    ("16", "check_rotate", spun(angle=lambda t, s: (t * 10_000.0**-s).deg2rad()), "in radians, not in degrees"),
    ("16", "check_rotate", spun(angle=lambda t, s: t * 1_000.0**-s), "not the angles of pc.rotate"),
    ("16", "check_rotate", lambda x, t: pc.rotate(x, torch.arange(4, 9)), "your function stopped with RuntimeError"),
    ("16", "check_rotate", lambda x, t: pc.rotate(x, 4 + torch.arange(x.shape[2])), "at positions [0, 30, 7], hs = 6"),
    ("16", "check_rotate", overwritten, "the second half needs the first as it was"),
    ("16", "check_rotate", too_many_angles, "there are hs/2 angles"),
    ("16", "check_rotate", lambda x, t: x / 0, "not the angles of pc.rotate"),
    ("16", "check_grouped_attention", lambda q, k, v: None, "with 6 heads of queries and 2 of keys, it returned None"),
    ("16", "check_grouped_attention", lambda q, k, v: q @ k.mT, "your function stopped with RuntimeError"),
    ("16", "check_grouped_attention", lambda q, k, v: q, "not the numbers of PyTorch's own grouping"),
    (
        "16",
        "check_grouped_attention",
        grouped(share=lambda z, nh: z.repeat(1, nh // z.shape[1], 1, 1)),
        "repeat_interleave, not repeat",
    ),
    ("16", "check_grouped_attention", grouped(share=lambda z, nh: z[:, :1]), "all heads ask keys 0"),
    ("16", "check_grouped_attention", grouped(causal=False), "positions see their own future"),
    ("16", "check_grouped_attention", grouped(late=True), "the mask comes before the softmax"),
    ("16", "check_grouped_attention", grouped(axis=-2), "along the keys, the last axis"),
    ("16", "check_grouped_attention", grouped(hidden=lambda sees: sees), "some position may look nowhere"),
    ("16", "check_grouped_attention", grouped(hidden=lambda sees: ~sees.mT), "the mask is the wrong way round"),
    ("16", "check_grouped_attention", grouped(root=False), "divide the scores by √hs"),
    ("16", "check_grouped_attention", scores_times_the_mask, "a score of 0 is no mask"),
    ("16", "check_modern_block", lambda x, W, nh, kv: None, "it returned None, wanted a tensor of shape (2, 6, 32)"),
    ("16", "check_modern_block", lambda x, W, nh, kv: W["wte"], "your function stopped with KeyError"),
    ("16", "check_modern_block", lambda x, W, nh, kv: W["ln_1.weight"].mul_(0), "it returned (32,), wanted"),
    ("16", "check_modern_block", lambda x, W, nh, kv: x, "not the core's block"),
    ("16", "check_modern_block", assembled(ln_1=lambda x, weight: x), "attention reads what went through ln_1"),
    ("16", "check_modern_block", assembled(turn=lambda z: z), "queries and keys must be turned"),
    ("16", "check_modern_block", assembled(qk=lambda z, weight: z), "queries and keys go through q_norm and k_norm"),
    ("16", "check_modern_block", assembled(late=True), "QK-norm comes before the turning"),
    ("16", "check_modern_block", assembled(v=True), "the values are not turned"),
    ("16", "check_modern_block", assembled(future=True), "positions see their own future"),
    ("16", "check_modern_block", assembled(joined=True), "attn.c_proj is missing"),
    ("16", "check_modern_block", assembled(add=(False, True)), "the attention is added to x"),
    ("16", "check_modern_block", assembled(add=(True, False)), "the MLP is added to x as well"),
    ("16", "check_modern_block", assembled(ln_2=True), "the MLP reads what went through ln_2"),
    ("16", "check_modern_block", assembled(old=True), "the MLP reads x after the attention was added"),
    ("16", "check_modern_block", assembled(lambda gate, value: gate * silu(value)), "the first half of c_fc is the gate"),
    ("16", "check_modern_block", assembled(lambda gate, value: silu(gate) * silu(value)), "SiLU for the gate alone"),
    ("16", "check_modern_block", assembled(lambda gate, value: gate.sigmoid() * value), "the plain sigmoid"),
    ("16", "check_modern_block", assembled(lambda gate, value: F.gelu(gate) * value), "that is GELU"),
    ("16", "check_modern_block", assembled(lambda gate, value: gate.relu() * value), "that is ReLU"),
    ("16", "check_modern_block", assembled(lambda gate, value: gate * value), "the gate must go through F.silu"),
    ("16", "check_regroup", lambda W, n_head: None, "it returned None, wanted a tensor of shape (24, 6)"),
    ("16", "check_regroup", lambda W, n_head: W.view(7, -1), "your function stopped with RuntimeError"),
    ("16", "check_regroup", lambda W, n_head: W, "nothing has moved"),
    ("16", "check_regroup", lambda W, n_head: W.flip(0), "old row 2i of a head becomes its row i"),
    ("16", "check_regroup", lambda W, n_head: W.view(n_head, 2, -1, 6).transpose(1, 2).reshape(W.shape), "the other way round"),
    ("16", "check_regroup", lambda W, n_head: torch.cat([W[0::2], W[1::2]]), "each head keeps its own rows"),
    ("16", "check_regroup", lambda W, n_head: torch.cat([W[:, 0::2], W[:, 1::2]], 1), "not columns"),
    ("16", "check_regroup", lambda W, n_head: W.view(3, 4, 2, 6).transpose(1, 2).reshape(24, 6), "with 2 heads"),
    ("16", "check_regroup", lambda W, n_head: W / 0, "old row 2i of a head"),
]


@pytest.mark.parametrize(("number", "check", "answer", "hint"), WRONG, ids=[f"{n}-{c}-{w[:20]}" for n, c, _, w in WRONG])
def test_each_wrong_answer_gets_its_own_hint(number, check, answer, hint, capsys):
    if check in ("check_gpt", "check_capstone") and answer:  # classes, which stand on the lesson's own
        answer = tuple(answer())
    answers = answer if isinstance(answer, tuple) else (answer,)
    lesson(number)[check](*answers)
    printed = capsys.readouterr().out
    assert hint in printed
    assert "not yet" in printed
    assert "✓" not in printed or check == "check_bits", "only there one of several answers may be right"


def test_every_check_is_tried():
    """Read from the text of all cells, so that a check whose cell lacks its tag is missed too."""
    defined = {
        (number, name)
        for number, script in SCRIPTS.items()
        for name in re.findall(r"^def (check_\w+)", script.read_text(), re.MULTILINE)
    }
    assert defined == {(number, check) for number, check, _, _ in WRONG}


def test_each_patient_of_the_clinic_is_there_and_no_other():
    assert set().union(*patients.RIGHT.values()) <= set(patients.DIAGNOSES)
    corpus = picogpt.load_corpus()
    data = {letter: patients.data(letter, corpus) for letter in "ABC"}
    loops = {letter: patients.loop(letter, data["A"], steps=3) for letter in "DEFG"}
    users = {letter: patients.use(letter) for letter in "HIJ"}
    models = {letter: patients.model(letter) for letter in "KL"}
    assert list(data | loops | users | models) == list(patients.RIGHT)
    loops["D"].step()  # its discussion: the gradient of the new head is never cleared, all others are
    uncleared = [name for name, p in loops["D"].model.named_parameters() if p.grad is not None]
    assert uncleared == ["lm_head.weight", "lm_head.bias"]
    seen = {letter: {name: p.clone() for name, p in loops[letter].model.named_parameters()} for letter in "FG"}
    assert [loops[letter].step() > 8 for letter in "FG"] == [True, False], "only F's first loss is a sum"
    assert loops["F"].optimizer.param_groups[0]["lr"] < loops["G"].optimizer.param_groups[0]["lr"], "F's rate falls too fast"
    assert all(not torch.equal(p, seen["G"][name]) for name, p in loops["G"].model.named_parameters()), "G is healthy"
    with pytest.raises(ValueError, match="there is no patient 'A' here, only healthy, H, I, J"):
        patients.use("A")
