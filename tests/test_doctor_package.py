"""The doctor as a package: its files and their order, its causes and checks, the ways to run it, its parts by themselves."""

import ast
import dataclasses
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import types
import zipapp
from pathlib import Path

import pytest
import torch
from doctor_hosts import fused, separate
from torch import nn

import picogpt_core as pc
import picogpt_doctor
from picogpt_doctor import GOLDEN, Status, patient, registry, report
from picogpt_doctor.generation import detect_generate
from picogpt_doctor.tape import Tape

FOLDER = Path(picogpt_doctor.__file__).parent
# each imports only files before it
FILES = (
    *("report", "tape", "patient", "probes", "registry"),
    *("leaks", "basics", "future", "causality", "attention", "stream", "values", "training", "caches", "generation"),
    *("subject", "answers", "passes", "watch", "batch", "running", "objective", "optimizing", "loop", "checkpoint"),
    *("guard", "formats", "cli", "__init__", "__main__"),
)
CHECKS = (*FILES[5:15], "answers", "passes", "batch", "objective", "optimizing", "loop", "checkpoint")


def tree(name):
    return ast.parse((FOLDER / f"{name}.py").read_text())


# ----- files


def test_the_files_are_those_of_the_list():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_torch_the_standard_library_and_files_before_it(name):
    before = FILES[: FILES.index(name)]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            assert set(names) <= set(before), f"{name} imports {names}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {n.partition(".")[0] for n in names} <= {"torch", *sys.stdlib_module_names}, f"{name} imports {names}"


@pytest.mark.slow
def test_importing_it_brings_nothing_of_this_course():
    ask = (
        "import sys, picogpt_doctor\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules if name.startswith(('picogpt', 'transformers'))}))"
    )
    env = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    seen = subprocess.check_output([sys.executable, "-c", ask], text=True, env=env)
    assert seen.strip() == "['picogpt_doctor']"


def test_no_function_is_long():
    functions = [(n.end_lineno - n.lineno + 1, f"{name}.{n.name}") for name in FILES for n in ast.walk(tree(name)) if is_def(n)]
    assert max(functions) < (60, ""), sorted(functions)[-4:]


def is_def(node):
    return isinstance(node, ast.FunctionDef)


def test_thresholds_stand_in_one_place():
    """A number that is compared with, or multiplies a tolerance, in a check is one that nobody can explain."""
    bare = []
    for name in CHECKS:
        for node in ast.walk(tree(name)):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            sides += [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div) else []
            for side in sides:
                if isinstance(side, ast.Constant) and isinstance(side.value, float) and side.value not in (0.0, 1.0):
                    bare.append(f"{name}.py:{side.lineno}: {side.value}")
    assert not bare, bare


# ----- causes


def causes():
    """(module, name, value) of each cause: a constant, or a function that returns one."""
    for name in FILES[: FILES.index("cli")]:
        module = importlib.import_module(f"picogpt_doctor.{name}")
        for key, value in vars(module).items():
            function = isinstance(value, types.FunctionType) and value.__module__ == module.__name__
            if isinstance(value, report.Cause) or (function and value.__annotations__.get("return") == "Cause"):
                yield name, key, value


def test_every_cause_is_named_by_some_check():
    """A cause that is defined and never used is advice that nobody gets."""
    used = {n.id for name in FILES for n in ast.walk(tree(name)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert len({key for _, key, _ in causes()}) > 140
    assert [key for _, key, _ in causes() if key not in used] == []


EXAMPLES = {
    "int": 3,
    "float": 0.25,
    "str": "h.0.mlp",
    "tuple": (3, 13),
    "list[int]": [0, 1],
    "Tensor": torch.tensor([0.5, 2.0]),
}


def test_every_cause_reads_as_text_with_all_its_parameters():
    for name, key, value in causes():
        if isinstance(value, types.FunctionType):
            kinds = [parameter.annotation for parameter in inspect.signature(value).parameters.values()]
            if not set(kinds) <= set(EXAMPLES):  # of a patient or a tape: a check's work, not a cause
                continue
            value = value(*(EXAMPLES[kind] for kind in kinds))
        if key == "NO_CAUSE":
            continue
        assert value.text, (name, key)
        assert value.advice, (name, key)
        assert not value.text.endswith("."), (name, key)
        assert "{" not in value.text, (name, key)


def test_the_golden_counts_are_those_of_the_presets():
    with torch.device("meta"):
        counts = {name: sum(x.numel() for x in pc.GPT(pc.preset(name)).parameters()) for name in GOLDEN}
    assert counts == GOLDEN


# ----- the registry


def test_a_need_that_is_misspelt_or_asked_later_is_an_error_at_import(monkeypatch):
    monkeypatch.setattr(registry, "CHECKS", {})
    for need in ("sideeffects", "cache", "generate"):
        with pytest.raises(ValueError, match=f"'generate' needs {need}, which must stand above it"):
            registry.check("generate", needs=(need,))
    with pytest.raises(ValueError, match="'generates' is not in ORDER"):
        registry.check("generates")
    registry.check("generate", needs=("rows",))(lambda p: None)
    with pytest.raises(ValueError, match="'generate' is defined twice"):
        registry.check("generate")


def test_a_check_that_no_file_defines_is_an_error_at_import(monkeypatch):
    monkeypatch.delitem(registry.CHECKS, "causality")
    with pytest.raises(RuntimeError, match="no file defines causality"):
        registry.require_all_checks()


def test_the_checks_are_asked_in_their_order():
    assert [f.check for f in picogpt_doctor.diagnose(fused()).findings] == list(registry.ORDER)


# ----- the report


def test_the_exit_status_of_each_combination():
    def status(*findings, examined=True):
        made = [report.Finding("a", s, "", reason=reason, essential=essential) for s, reason, essential in findings]
        return report.Report("", made, 1.0, examined).exit_status

    ok, bad, bug = (Status.PASS, "", True), (Status.FAIL, "", False), (Status.ERROR, "", False)
    assert status(ok) == 0
    assert status(ok, (Status.WARN, "", True)) == 0
    assert status(ok, bad) == status(bad, bug) == status(bad, (Status.SKIP, "too slow", True)) == 1
    assert status(bad, examined=False) == 2
    assert status(ok, bug) == status(bug, examined=False) == 3
    assert status(ok, (Status.SKIP, "too slow", True)) == status(ok, (Status.SKIP, "could not be asked", True)) == 3
    assert status(ok, (Status.SKIP, "too slow", False), (Status.SKIP, "does not apply", True)) == 0


# ----- the tape


def attention_of(scores_of, T=7, softmax=-1):
    """The one attention that is recorded for q, k, v of (2, 3, T, 5)."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, T, 5).unbind(0)
    with Tape({}, torch.zeros(2, T, dtype=torch.long), strict=True) as tape:
        scores_of(q, k).softmax(softmax) @ v
    (attention,) = tape.attentions
    return attention


@pytest.mark.parametrize(
    ("scores_of", "factor"),
    [
        (lambda q, k: q @ k.mT, 1.0),
        (lambda q, k: q @ k.mT / 4, 0.25),
        (lambda q, k: (q * 0.5) @ (k / 8).mT * 2, 0.125),
        (lambda q, k: (q @ k.mT * 0.5).masked_fill(torch.ones(7, 7).triu(1) > 0, -torch.inf), 0.5),
        (lambda q, k: q @ k.mT * nn.Parameter(torch.ones(1)), None),
    ],
    ids=["none", "divided", "on queries and keys", "before a mask", "learned"],
)
def test_the_tape_follows_a_scale_to_the_scores(scores_of, factor):
    attention = attention_of(scores_of)
    assert (attention.factor, attention.hs, attention.axis) == (factor, 5, "keys")


@pytest.mark.parametrize(("dim", "axis"), [(-1, "keys"), (-2, "queries"), (1, "another axis")])
def test_the_tape_names_the_axis_of_the_softmax(dim, axis):
    assert attention_of(lambda q, k: q @ k.mT, softmax=dim).axis == axis


def test_the_tape_sees_a_widened_output_that_reaches_the_next_layer_unchanged():
    up, down = nn.Linear(8, 32), nn.Linear(32, 8)
    names = {up.weight.data_ptr(): "up", down.weight.data_ptr(): "down", up.bias.data_ptr(): "bias"}

    def straight(between):
        with Tape(names, torch.zeros(2, 7, dtype=torch.long), strict=True) as tape:
            down(between(up(torch.randn(2, 7, 8))))
        return tape.straight

    assert straight(lambda x: x) == straight(lambda x: x + up.bias) == [("up", "down")]
    assert straight(torch.relu) == straight(lambda x: x + 1) == []


# ----- how a model and its generate are called


def test_the_interface_of_both_hosts():
    for model, table in ((fused(), "wte.weight"), (separate(), "embed.weight")):
        p = patient.Patient(model)
        with p.unharmed():
            p.model.eval()
            face = patient.detect_interface(p)
        assert (face.mode, face.axes, face.T, face.vocab, face.block) == ("plain", "BTV", 13, 50, 24)
        assert (face.token_table, face.both, face.last_position) == (table, True, 24)
        with pytest.raises(dataclasses.FrozenInstanceError):
            face.T = 1


def nothing(*args):
    """Stands for the body of a generate that is never called."""


CONVENTIONS = {
    "nanoGPT": (lambda idx, max_new_tokens, temperature=1.0, top_k=None: nothing(), "max_new_tokens", False, {"top_k": 1}),
    "Raschka": (lambda model, idx, max_new_tokens, context_size: nothing(), "max_new_tokens", False, {}),
    "Hugging Face": (
        lambda inputs=None, **kwargs: nothing(),
        "max_new_tokens",
        False,
        dict(do_sample=False, pad_token_id=0, eos_token_id=None, use_cache=False),
    ),
    "max_length": (lambda ids, max_length, do_sample=True: nothing(), "max_length", None, {"do_sample": False}),
    "n": (lambda ids, n: nothing(), "n", False, {}),
    "second is a count": (lambda ids, how_many_steps: nothing(), "", False, {}),
    "temperature alone": (lambda ids, steps, temperature=1.0: nothing(), "steps", False, {"temperature": 1e-6}),
    "a flag": (lambda ids, num_tokens, greedy=False: nothing(), "num_tokens", False, {"greedy": True}),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_of_generate_are_known_by_their_signature(name):
    function, count, counts_prompt, more = CONVENTIONS[name]
    model = nn.Module()
    model.generate = function
    if name == "Hugging Face":
        model.generation_config = types.SimpleNamespace(eos_token_id=7)
    call = detect_generate(model)
    assert (call.count, call.counts_prompt, call.more, call.greedy) == (count, counts_prompt, more, bool(more))
    assert call.ends == ((7,) if name == "Hugging Face" else ())


def test_a_free_function_is_called_as_the_help_says():
    def generate(model, prompt, seq_len, temperature=1.0):
        return model, prompt, seq_len

    model = nn.Module()
    call = detect_generate(model, generate, block=8)
    assert (call.count, call.function("ids", 5)) == ("", (model, "ids", 5))
    call = detect_generate(model, lambda model, idx, max_new_tokens, context_size: (idx, max_new_tokens, context_size), block=8)
    assert call.function("ids", max_new_tokens=5) == ("ids", 5, 8)
    assert detect_generate(model, lambda model, prompt: prompt) is None


@pytest.mark.parametrize("function", [None, "a string", lambda ids: nothing(), lambda prompt, text: nothing()])
def test_what_takes_no_number_of_tokens_is_not_a_generate(function):
    model = nn.Module()
    model.generate = function
    assert detect_generate(model) is None


# ----- the ways to run it


MODEL = """
import sys
sys.path.insert(0, {tests!r})
from doctor_hosts import fused


def make(fault=None):
    print("noise of the model's")
    return fused(fault)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A folder without this project, where a model is."""
    (tmp_path / "my_model.py").write_text(MODEL.format(tests=str(Path(__file__).parent)))
    return tmp_path


def archive(folder):
    """picogpt_doctor.pyz, as the Makefile makes it."""
    target = folder / "picogpt_doctor.pyz"

    def keep(path):
        return path.parts[0] == "picogpt_doctor" and path.suffix == ".py"

    shutil.copytree(FOLDER, folder / "source" / "picogpt_doctor")  # the Makefile has the repository for a source
    zipapp.create_archive(folder / "source", target, main="picogpt_doctor.cli:run_and_exit", filter=keep)
    shutil.rmtree(folder / "source")
    return target


def way(name, folder):
    """The words that start it, and the environment."""
    if name == "module":
        return ["-m", "picogpt_doctor"], {"PYTHONPATH": str(FOLDER.parent)}
    if name == "folder":
        shutil.copytree(FOLDER, folder / "tools" / "picogpt_doctor")
        return [str(folder / "tools" / "picogpt_doctor")], {"PYTHONPATH": ""}
    return [str(archive(folder))], {"PYTHONPATH": ""}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["module", "folder", "pyz"])
def test_three_ways_to_run_it(elsewhere, name):
    start, paths = way(name, elsewhere)
    line = [sys.executable, *start, "my_model.py:make"]
    done = subprocess.run(line, cwd=elsewhere, capture_output=True, text=True, timeout=240, env=os.environ | paths)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Healthy: nothing failed." in done.stdout
    if name != "pyz":
        return
    line += ["fault=no_mask", "--json"]  # a fault, as another program reads it: one way is enough
    done = subprocess.run(line, cwd=elsewhere, capture_output=True, text=True, timeout=240, env=os.environ | paths)
    assert done.returncode == 1, done.stdout + done.stderr
    read = json.loads(done.stdout)
    assert {f["check"]: f["status"] for f in read["findings"]}["causality"] == "fail"
    assert "noise of the model's" in done.stderr


@pytest.mark.slow
def test_the_archive_can_be_imported(elsewhere):
    ask = (
        f"import sys; sys.path.insert(0, {str(archive(elsewhere))!r}); sys.path.insert(0, '.')\n"
        "from picogpt_doctor import diagnose\nimport picogpt_doctor, my_model\n"
        "assert '.pyz' in picogpt_doctor.__file__\nprint(diagnose(my_model.make('no_mask'))['causality'].cause)"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask], cwd=elsewhere, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""}
    )
    assert "no causal mask in every attention" in done.stdout, done.stdout + done.stderr
