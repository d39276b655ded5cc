"""Examine a GPT from outside, anybody's, and say what is wrong with it.

    python -m picogpt_doctor my_model.py:make_model n_layer=3 n_embd=64      # what to call, and with which arguments
    python -m picogpt_doctor my_package.my_module:GPT --golden picogpt --json

    from picogpt_doctor import diagnose
    diagnose(model)                                                          # in a notebook: a table

    from picogpt_doctor import assert_healthy, examine_batch, examine_checkpoint, examine_step
    examine_step(train_step, model, optimizer, batch)                        # what surrounds a model (docs/doctor.md)
    assert_healthy(model)                                                    # in a test

The folder runs from anywhere (python path/to/picogpt_doctor …), and so does a picogpt_doctor.pyz made of it; torch is all it
needs. The model is any torch.nn.Module that takes token ids (B, T) and returns logits (B, T, V): alone, in a tuple, in a dict,
as an attribute `logits`, with or without a loss. Each check asks for something that must be true of every causal language
model, whoever wrote it. Most need only its outputs: change a token and see which logits move. Where that does not show the
cause, the operations that PyTorch carries out are recorded: which softmax over which axis, which weights came out of it.

A finding is one of
    pass   what must be true is true
    fail   it is not: the evidence in numbers, the likely cause, where to look
    warn   unusual; some good models do so on purpose
    skip   not answered, and why: does not apply, skipped for a check that failed, too slow, or could not be asked
    error  the check crashed: a bug of the doctor, not of the model

An error, or no answer to an essential check (called, answers, repeats, rows, causality, memory, lengths), leaves no report
healthy. An exception inside the model is shown with the line of its code that raised it; where weights hold NaN, nothing that
compares logits is asked. Weights, gradients, modes, buffers and random numbers are put back. Nothing is written, nothing is
fetched.

Files, each importing only those before it
    report       a check's verdict, and the report of all
    tape         what PyTorch does while the model answers
    patient      how the model is called, and left unharmed
    probes       all thresholds, and what several checks measure
    registry     the checks in their order, the time limit, diagnose
    leaks        the first layer, and the operation in it, where the future enters
    basics, future, causality, attention, stream, values, training, caches, generation
                 the checks by subject, each beside the causes it can name
    subject      a step, a batch or a checkpoint that is handed over: how its checks are asked
    passes       forward and backward passes, and what a loss compares with what
    batch        data
    watch, running
                 training code while it runs, and what was seen of it
    objective, optimizing, loop
                 a training step: what it minimises, what the optimizer does, and the rest
    checkpoint   a checkpoint, and its use
    guard, formats
                 which findings count; SARIF, and Markdown for an issue
    cli          the command line
"""

from . import basics, future, causality, attention, stream, values, training, caches, generation  # noqa: F401, I001  (each registers its checks)
from .batch import examine_batch
from .checkpoint import examine_checkpoint
from .guard import assert_healthy
from .loop import examine_step
from .patient import GOLDEN
from .registry import diagnose, require_all_checks
from .report import Finding, Reason, Report, Status

require_all_checks()

__all__ = [
    "GOLDEN",
    "Finding",
    "Reason",
    "Report",
    "Status",
    "assert_healthy",
    "diagnose",
    "examine_batch",
    "examine_checkpoint",
    "examine_step",
]
