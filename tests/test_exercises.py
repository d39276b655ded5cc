"""The checks of the exercises: each typical wrong answer gets its own hint, nothing raises. Right ones: test_anywhere.py."""

import contextlib
import functools
import io
import math
import re

import matplotlib.pyplot as plt
import pytest
import torch

import lessons
import picogpt_core as pc

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


def batch_norm(z):
    return (z - z.mean(0)) / z.std(0, correction=0)


def surprise(probs, targets, log=math.log):
    return -sum(log(row[target]) for row, target in zip(probs, targets, strict=True))


def leaks(model, T, positions):
    """Whether logits before one of `positions` change when the tokens from there on do, in the model's present mode."""
    ids = torch.zeros(1, T, dtype=torch.long)
    largest = []
    for t in positions:
        other = ids.clone()
        other[:, t:] = 1
        largest.append((model(ids) - model(other))[:, :t].abs().max().item())
    return max(largest) > 1e-6


probed = pc.moved_by_the_future


def any_past_moves(model, ids):
    """Whether anything before a change moves, wherever it is: half of what makes a model causal."""
    return any(bool(probed(model, ids, t)[:t].any()) for t in range(1, ids.shape[1]))


def last_token_moves(model, T):
    """How much the logits at each position change when the last token does. (T,)"""
    ids = torch.zeros(1, T, dtype=torch.long)
    other = ids.clone()
    other[:, -1] = 1
    return (model(ids) - model(other)).abs().amax(dim=(0, 2))


def scale_columns(block, head, factor):
    block.attn.c_proj.weight[:, head * 32 : (head + 1) * 32] *= factor


def shared_anywhere(named_parameters):
    parameters = [parameter for _, parameter in named_parameters(remove_duplicate=False)]
    return len(set(map(id, parameters))) < len(parameters)


GREEDY = pc.SampleConfig(30, temperature=0)


def transpose_what_does_not_fit(name, value):
    """Transposes the matrices whose shape would not fit, and leaves out the square one."""
    return f"transformer.{name}", value.T if name.endswith(("c_attn.weight", "c_fc.weight", "mlp.c_proj.weight")) else value


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
    ("00", "check_is_causal", lambda model, ids: not probed(model, ids, 9)[:9].any(), "whose answer at 3 depends on 7"),
    ("00", "check_is_causal", lambda model, ids: not any_past_moves(model, ids), "does not read its text it says True"),
    ("00", "check_is_causal", lambda model, ids: not leaks(model.train(), 12, range(1, 12)), "with dropout it says False"),
    ("01", "check_join", lambda ids, pair, new: None, "it returned nothing"),
    ("01", "check_join", lambda ids, pair, new: ids, "two occurrences"),
    ("01", "check_join", lambda ids, pair, new: 1 / 0, "ZeroDivisionError"),
    ("01", "check_bits", (1.47, 3.3 / 4), "still in nats"),
    ("01", "check_bits", (1.47 * math.log(2), 0.0), "divide by ln 2"),
    ("01", "check_bits", (2.12, 3.3 / math.log(2)), "spread over 4 bytes"),
    ("02", "check_loss", lambda probs, targets: -surprise(probs, targets) / len(targets), "sign"),
    ("02", "check_loss", surprise, "the sum"),
    ("02", "check_loss", lambda probs, targets: surprise(probs, targets, math.log2) / len(targets), "bits"),
    ("02", "check_loss", lambda probs, targets: None, "it returned nothing"),
    ("02", "check_loss", lambda probs, targets: -math.log(probs[0][0]), "for two positions"),
    ("02", "check_loss", lambda probs, targets: math.nan, "for two positions"),
    ("02", "check_windows", 240 * 20, "square root"),
    ("02", "check_windows", ..., "put a number"),
    ("03", "check_causal_mask", lambda T: torch.ones(T, T, dtype=torch.bool), "row 0 looks at position 1"),
    ("03", "check_causal_mask", lambda T: torch.ones(T, T, dtype=torch.bool).tril(-1), "row 0 may look nowhere"),
    ("03", "check_causal_mask", lambda T: torch.eye(T, dtype=torch.bool), "row 1 cannot look at position 0"),
    ("03", "check_causal_mask", lambda T: torch.ones(T, T).tril(), "wanted a tensor of booleans"),
    ("03", "check_causal_mask", lambda T: torch.ones(6, 6, dtype=torch.bool).tril(), "for T = 3 and 6"),
    ("03", "check_first_dependent", lambda model, T: T - 1, "for the model 'no mask' it gave 11, wanted 0"),
    ("03", "check_first_dependent", lambda model, T: (last_token_moves(model, T) > 0).nonzero(), "gave ValueError"),
    (
        "03",
        "check_first_dependent",
        lambda model, T: last_token_moves(model, T).argmax(),
        "for the model 'no mask' it gave 11, wanted 0",
    ),
    ("03", "check_first_dependent", lambda model, T: 0, "for the model 'causal' it gave 0, wanted 11"),
    ("03", "check_root", math.sqrt(768), "√n_embd"),
    ("03", "check_root", 64, "head size"),
    ("04", "check_split", lambda z, nh: z.view(2, nh, 3, 2), "the right shape, but mixed"),
    ("04", "check_split", lambda z, nh: z.view(2, 3, nh, 2), "wanted (B, nh, T, hs)"),
    ("04", "check_may_look", lambda new, past: torch.ones(new, past + new, dtype=torch.bool).tril(), "move it by the past"),
    ("04", "check_may_look", lambda new, past: ~torch.ones(new, past + new, dtype=torch.bool).tril(past), "inverted"),
    ("04", "check_may_look", lambda new, past: torch.ones(new, past + new).tril(past), "give booleans"),
    ("04", "check_silence", lambda model, layer, head: model.h[layer].attn.c_proj.weight[head].zero_(), "head 5 has columns"),
    ("04", "check_silence", lambda model, layer, head: scale_columns(model.h[0], head, 0), "head 5 has columns"),
    ("04", "check_silence", lambda model, layer, head: scale_columns(model.h[layer], head, 2), "set only these to 0"),
    ("06", "check_normalise", batch_norm, "BatchNorm"),
    ("06", "check_normalise", lambda z: (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True), "correction=0"),
    ("06", "check_normalise", lambda z: z / z.std(1, keepdim=True), "means are not 0"),
    ("06", "check_normalise", lambda z: z.double(), "means are not 0"),
    ("06", "check_placement", lambda block: "pre", "for a post block it said pre"),
    ("06", "check_placement", lambda block: "pre" if block.pre else "post", "AttributeError"),
    ("07", "check_fold", lambda attn: attn.c_attn.bias[64:].zero_(), "the output moved"),
    ("07", "check_fold", lambda attn: attn.c_attn.bias.zero_(), "leave the biases of query and key alone"),
    ("07", "check_fold", lambda attn: None, "is not 0"),
    ("07", "check_fold", lambda attn: setattr(attn.c_attn, "bias", None), "keep c_attn.bias"),
    ("07", "check_fold", lambda attn: (attn.c_attn.bias[64:].zero_(), attn.c_proj.bias.fill_(math.nan)), "the output moved"),
    ("07", "check_number", 12 * 11 * 768, "one more LayerNorm"),
    ("07", "check_number", 12 * 9 * 768, "LayerNorms have biases too"),
    ("08", "check_medium", 354_823_168 + 50257 * 1024, "tied"),
    ("08", "check_medium", 354_823_168 - 24 * 3 * 1024, "biases for query"),
    ("08", "check_missing", "final norm", "can be the reason"),
    ("08", "check_shared", lambda model: model.h[0] is model.h[1], "two blocks that share the weight of c_fc"),
    ("08", "check_shared", lambda model: True, "a right model"),
    ("08", "check_shared", lambda model: pc.count_parameters(model) < 2_466_369, "a right one, two layers"),
    ("08", "check_shared", lambda model: shared_anywhere(model.named_parameters), "a tied head"),
    ("08", "check_shared", lambda model: len({id(b.mlp.c_fc.weight) for b in model.h}) < len(model.h), "attn.c_proj"),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: highest, "the warm-up"),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: min(1, (step + 1) / warmup), "the warm-up"),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: highest * min(1, (step + 1) / warmup), "the fall"),
    ("09", "check_schedule", lambda step, steps, warmup, highest, lowest: math.nan, "the warm-up"),
    ("09", "check_shares", [1, 1, 1], "the gradient is off by"),
    ("09", "check_shares", ["10/16", "4/16", "2/16"], "a list of three numbers"),
    ("09", "check_shares", [1 / 3, 1 / 3, 1 / 3], "the gradient is off by"),
    ("09", "check_shares", [0.5], "1 numbers for three pieces"),
    ("09", "check_hours", 961538, "these are seconds"),
    ("09", "check_hours", 107, "nobody reaches"),
    ("10", "check_reheat", lambda probs, temperature: (probs / temperature).softmax(dim=0), "not the probabilities"),
    ("10", "check_reheat", lambda probs, temperature: probs ** (1 / temperature), "add up to"),
    ("10", "check_order", "top-k", "does not change which k"),
    ("10", "check_order", "neither", "have p together sooner"),
    ("11", "check_memory", 26.2, "Keys *and* values"),
    ("11", "check_greedy", lambda model, ids, n: ids, "return the prompt and 30 more"),
    ("11", "check_greedy", lambda model, ids, n: pc.generate(model, ids, pc.SampleConfig(n, seed=1)), "another than the model"),
    (
        "11",
        "check_greedy",
        lambda model, ids, n: pc.generate(model, ids, GREEDY, use_cache=False),
        "tokens read. Once each is 49",
    ),
    ("12", "check_pass_rate", lambda p, q: (p * q).sum(), "wanted 0.5"),
    ("12", "check_pass_rate", lambda p, q: 1 - (p - q).abs().max(), "wanted 0.5"),
    ("12", "check_pass_rate", lambda p, q: math.nan, "wanted 0.5"),
    ("12", "check_pass_rate", lambda p, q: None, "it returned nothing"),
    ("12", "check_gain", 3.3616, "Divide by what the round costs"),
    ("12", "check_gain", (1 - 0.8**4) / 0.2 / 1.4, "the exponent is γ + 1"),
    ("13", "check_diseases", (..., ..., ...), "for A choose one of mask"),
    ("13", "check_diseases", ("mask", "scale", "rows"), "A does not have 'mask': 63 work and 64 do not"),
    ("13", "check_diseases", ("positions", "residual", "rows"), "sure of nonsense"),
    ("13", "check_diseases", ("positions", "first weights", "mask"), "in another row"),
    ("13", "check_depends_on_future", lambda model, T: None, "it returned nothing"),
    ("13", "check_depends_on_future", lambda model, T: True, "for a healthy model it gave True"),
    ("13", "check_depends_on_future", lambda model, T: False, "without a mask it gave False"),
    ("13", "check_depends_on_future", lambda model, T: leaks(model.train(), T, range(1, T)), "dropout, left in training mode"),
    ("13", "check_depends_on_future", lambda model, T: leaks(model.eval(), T, [T - 1]), "position 3 depends on position 5"),
    ("13", "check_depends_on_future", lambda model, T: leaks(model.eval(), T, [4]), "position 9 depends on position 11"),
    ("13", "check_depends_on_future", lambda model, T: 1 / 0, "ZeroDivisionError"),
    ("13", "check_generate_well", lambda model, ids, n: None, "as a tensor (1, 280)"),
    ("13", "check_generate_well", lambda model, ids, n: lesson("13")["generate_ill"](model, ids, n), "the window is full"),
    ("13", "check_generate_well", lambda model, ids, n: model(ids.repeat(1, 2)), "not yet: ValueError: a window of 480"),
    ("13", "check_generate_well", lambda model, ids, n: pc.generate(model, ids, pc.SampleConfig(n, seed=1)), "character 24"),
    ("14", "check_back", lambda name, value: None, "no pair of a name and a tensor"),
    ("14", "check_back", lambda name, value: (name, value), "transformers knows no 'wte.weight'"),
    ("14", "check_back", lambda name, value: (f"transformer.{name}", value), "c_attn.weight has shape (96, 32)"),
    ("14", "check_back", lambda name, value: (f"transformer.{name}", value.T), "wte.weight has shape (32, 512)"),
    ("14", "check_back", transpose_what_does_not_fit, "square ones turn too"),
    ("14", "check_gigabytes", 6.23, "the weights alone"),
    ("14", "check_gigabytes", 12.46, "AdamW keeps two averages"),
    ("14", "check_gigabytes", ..., "put a number"),
    ("14", "check_at_a_time", 12, "a piece of all cards together"),
    ("14", "check_at_a_time", 120, "computed in pieces"),
]


@pytest.mark.parametrize(("number", "check", "answer", "hint"), WRONG, ids=[f"{n}-{c}-{w[:20]}" for n, c, _, w in WRONG])
def test_each_wrong_answer_gets_its_own_hint(number, check, answer, hint, capsys):
    answers = answer if isinstance(answer, tuple) else (answer,)
    lesson(number)[check](*answers)
    printed = capsys.readouterr().out
    assert hint in printed
    assert "not yet" in printed
    assert "✓" not in printed or check == "check_bits", "only there one of two answers may be right"


def test_every_check_is_tried():
    """Read from the text of all cells, so that a check whose cell lacks its tag is missed too."""
    defined = {
        (number, name)
        for number, script in SCRIPTS.items()
        for name in re.findall(r"^def (check_\w+)", script.read_text(), re.MULTILINE)
    }
    assert defined == {(number, check) for number, check, _, _ in WRONG}
