"""DEFault-bench's faults, put into tiny GPT-2s and GPT-Neos of transformers by its own injectors, and shown to the doctor.

    git clone https://github.com/SigmaJahan/DEFaultplusplus-Transformer-Debugging ../default-bench
    python benchmarks/doctor/default_bench.py ../default-bench

Each operator of DEForm (arXiv 2604.28118) that applies to a decoder, with each value of its grid, is put into models of random
weights and configurations: in the first configuration of a family into all layers, in the second into layer 1, and so
on in turn. A cell that changes nothing (no logit in evaluation or training mode, none read from a cache, no gradient) is
counted apart: there is nothing to find. A fault is found if the doctor says that the model is not healthy; `warned` counts
those that it only warns of. Their own figures come from another protocol (fine-tuned models and their training traces), so
they may stand beside these and not be compared.

One row for each cell goes to data/runs/doctor_default_bench.csv, and the summary to the screen. About ten minutes with one
thread.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoConfig, GPTNeoForCausalLM

import picogpt
from picogpt_doctor import diagnose

TABLE = picogpt.DATA / "runs" / "doctor_default_bench.csv"
LAYERS = ((), (1,))  # as their injectors count: () is all of them
COLUMNS = ("host", "number", "operator", "value", "layers", "kind", "effective", "found", "warned", "first", "seconds")
# and those of `versions`


def gpt2(number: int) -> nn.Module:
    """Return a tiny GPT-2 of a random configuration."""
    draw = random.Random(number)
    heads = draw.choice((2, 4))
    config = GPT2Config(
        vocab_size=draw.choice((96, 131, 200)),
        n_positions=draw.choice((48, 64)),
        n_embd=heads * draw.choice((8, 16)),
        n_layer=draw.choice((2, 3, 4)),
        n_head=heads,
        tie_word_embeddings=draw.random() < 0.5,
        attn_implementation=draw.choice(("eager", "sdpa")),
        activation_function=draw.choice(("gelu_new", "gelu", "relu", "silu")),
        layer_norm_epsilon=draw.choice((1e-5, 1e-6)),
        initializer_range=draw.choice((0.02, 0.05)),
        bos_token_id=0,
        eos_token_id=0,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), draw.choice((0.0, 0.1))),
    )
    torch.manual_seed(number)
    return GPT2LMHeadModel(config).eval()


def gpt_neo(number: int) -> nn.Module:
    """Return a tiny GPT-Neo of a random configuration."""
    draw = random.Random(number)
    heads, layers = draw.choice((2, 4)), draw.choice((2, 4))
    config = GPTNeoConfig(
        vocab_size=draw.choice((96, 131, 200)),
        max_position_embeddings=draw.choice((48, 64)),
        hidden_size=heads * draw.choice((8, 16)),
        num_layers=layers,
        num_heads=heads,
        attention_types=[[["global", "local"], layers // 2]],
        window_size=draw.choice((8, 64)),
        tie_word_embeddings=draw.random() < 0.5,
        activation_function=draw.choice(("gelu_new", "gelu", "relu", "silu")),
        layer_norm_epsilon=draw.choice((1e-5, 1e-6)),
        initializer_range=draw.choice((0.02, 0.05)),
        bos_token_id=0,
        eos_token_id=0,
        **dict.fromkeys(("resid_dropout", "embed_dropout", "attention_dropout"), draw.choice((0.0, 0.1))),
    )
    torch.manual_seed(number)
    return GPTNeoForCausalLM(config).eval()


HOSTS: dict[str, Callable[[int], nn.Module]] = {"gpt2": gpt2, "gpt_neo": gpt_neo}


def behaviour(model: Any) -> list[Tensor]:
    """Return what a fault could change: logits in both modes, from a cache, once more after it, and all gradients."""
    length = getattr(model.config, "n_positions", None) or model.config.max_position_embeddings
    ids = torch.randint(model.config.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    seen = []
    with contextlib.suppress(RuntimeError, IndexError, ValueError), torch.no_grad():
        seen.append(model(input_ids=ids).logits)
        step = model(input_ids=ids[:, : length // 2], use_cache=True)
        for t in range(length // 2, length):
            step = model(input_ids=ids[:, t : t + 1], past_key_values=step.past_key_values, use_cache=True)
            seen.append(step.logits)
        seen.append(model(input_ids=ids[:, :8]).logits)
    model.train()
    torch.manual_seed(0)
    with contextlib.suppress(RuntimeError, IndexError, ValueError):
        loss = model(input_ids=ids[:, :8], labels=ids[:, :8], use_cache=False).loss
        seen.append(loss.detach())
        weights = [x for x in model.parameters() if x.requires_grad]
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        seen += [torch.zeros(()) if g is None else g for g in grads]
    model.eval()
    return seen


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def examine(model: nn.Module) -> dict:
    """Return what the doctor says of a model."""
    began = time.process_time()
    report = diagnose(model, seconds=30)
    words = [f"{f.check}: {f.cause or f.evidence}" for status in ("error", "fail", "warn") for f in report.of(status)]
    return dict(
        found=int(not report.healthy),
        warned=int(report.healthy and bool(report.of("warn"))),
        first=words[0] if words else "",
        seconds=round(time.process_time() - began, 2),
    )


def faulty_cells(configurations: int, operators: list, injector: Callable, static: type) -> Iterator[dict]:
    """Yield a row for each operator, value, family and configuration."""
    for host, make in HOSTS.items():
        for number in range(configurations):
            layers, healthy = LAYERS[number % len(LAYERS)], behaviour(make(number))
            for operator in operators:
                for value in operator.param_grid or (None,):
                    cell = dict(host=host, number=number, operator=operator.op_id, value=value, layers=layers)
                    model = make(number)
                    with contextlib.ExitStack() as stack:
                        fault = injector(operator.op_id, layers=layers, param_value=value)(model)
                        cell["kind"] = "values" if isinstance(fault, static) else "wiring"
                        try:
                            stack.enter_context(fault)
                        except ValueError:  # it finds nothing to change in such a model
                            yield cell | dict(effective=0)
                            continue
                        if same(healthy, behaviour(model)):
                            yield cell | dict(effective=0)
                            continue
                        yield cell | dict(effective=1) | examine(fresh(make, number, injector, operator, layers, value, stack))


def fresh(make, number, injector, operator, layers, value, stack) -> nn.Module:
    """Return the model with its fault once more: an injector keeps state (a cache of the last request)."""
    model = make(number)
    stack.enter_context(injector(operator.op_id, layers=layers, param_value=value)(model))
    return model


def healthy_cells(each: int) -> Iterator[dict]:
    """Yield a row for each healthy model: configurations that no fault was put into."""
    for host, make in HOSTS.items():
        for number in range(100, 100 + each):
            yield dict(host=host, number=number, operator="", kind="healthy", effective=0) | examine(make(number))


def versions(clone: Path) -> dict[str, str]:
    """Return what ran: the packages, the commit of DEFault-bench, and the machine."""
    command = ["git", "-C", str(clone), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    packages = dict(transformers=transformers.__version__, torch=torch.__version__)
    return packages | dict(default_bench=commit, machine=picogpt.describe_machine())


def f1(found: int, missed: int, false: int) -> float:
    return 2 * found / max(2 * found + missed + false, 1)


def summary(rows: list[dict]) -> list[str]:
    """Return the figures as lines."""
    healthy = [r for r in rows if r["kind"] == "healthy"]
    faults = [r for r in rows if r["kind"] != "healthy"]
    effective = [r for r in faults if r["effective"]]
    false = sum(r["found"] for r in healthy)
    lines = [
        f"{len(faults)} cells, {len(effective)} change anything; {len(healthy)} healthy models, {false} called ill",
    ]
    for kind in ("wiring", "values", ""):
        some = [r for r in effective if kind in ("", r["kind"])]
        found = sum(r["found"] for r in some)
        precision = found / max(found + false, 1)
        lines.append(
            f"{kind or 'all':7} recall {found / max(len(some), 1):.3f} ({found} of {len(some)}, "
            f"{sum(r['warned'] for r in some)} more only warned of), precision {precision:.3f}, "
            f"F1 {f1(found, len(some) - found, false):.3f}"
        )
    found = sum(r["found"] for r in effective)
    lines.append(f"with the cells that change nothing counted as missed: F1 {f1(found, len(faults) - found, false):.3f}")
    missed: dict[str, list[str]] = {}
    for r in effective:
        if not r["found"]:
            missed.setdefault(r["operator"], []).append(f"{r['host']} {r['value']}")
    lines += [f"missed {name}: {len(cells)} ({', '.join(sorted(set(cells)))})" for name, cells in sorted(missed.items())]
    nothing = sorted({r["operator"] for r in faults} - {r["operator"] for r in effective})
    seconds = sorted(r["seconds"] for r in rows if "seconds" in r)
    lines.append(f"operators that change nothing in any cell: {', '.join(nothing)}")
    return [*lines, f"processor seconds a model: median {statistics.median(seconds):.2f}, longest {seconds[-1]:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clone", type=Path, help="where DEFault-bench was cloned to")
    parser.add_argument("--configurations", type=int, default=2, help="random configurations of each family (2)")
    parser.add_argument("--healthy", type=int, default=36, help="healthy models of each family (36)")
    parser.add_argument("--operators", nargs="*", help="some of them only, by their three letters")
    given = parser.parse_args()
    source = given.clone / "defaultplusplus" / "src"
    if not (source / "defaultplusplus" / "deform").is_dir():
        parser.error(
            f"{given.clone} holds no defaultplusplus/src/defaultplusplus/deform: clone the repository named above there"
        )
    sys.path.insert(0, str(source))
    from defaultplusplus.deform.injection import StaticFault  # type: ignore[import-not-found]
    from defaultplusplus.deform.operator_impls import get_injector  # type: ignore[import-not-found]
    from defaultplusplus.deform.operators import list_operators  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    operators = [o for o in list_operators("decoder") if not given.operators or o.op_id in given.operators]
    rows = [*healthy_cells(given.healthy), *faulty_cells(given.configurations, operators, get_injector, StaticFault)]
    if not given.operators:
        also, empty = versions(given.clone), dict.fromkeys(COLUMNS, "")
        picogpt.files.save_rows(TABLE, [empty | row | also for row in rows])
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
