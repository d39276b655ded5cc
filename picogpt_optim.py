"""What turns gradients into steps: Muon, AdamW, which weights decay, and the learning rate over time.

picogpt_core.py imports all of it, so that a lesson finds it there.

Sources
    AdamW: Loshchilov and Hutter 2017, arXiv 1711.05101
    Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from picogpt_settings import TrainConfig


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal: all directions of a matrix move by the same amount (Jordan 2024).

    For the matrices inside the blocks only. A group's `stack` says how many square matrices one weight holds above
    each other (c_attn: 3). Everything stays in float32: torch.optim.Muon computes in bfloat16, which processors
    without it do a hundred times slower.
    """

    def __init__(self, groups, lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(groups, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, stack=1))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:  # all weights of a group have one shape, so their products run in one call
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            ahead = []
            for weight in weights:
                state = self.state[weight]
                average = state.setdefault("momentum_buffer", weight.grad.new_zeros(weight.shape))
                average.lerp_(weight.grad, 1 - group["momentum"])
                ahead.append(weight.grad.lerp(average, group["momentum"]))  # Nesterov: where the average is going
            rows, columns = weights[0].shape[0] // group["stack"], weights[0].shape[1]
            steps = orthogonal(torch.stack(ahead).view(-1, rows, columns)) * max(1, rows / columns) ** 0.5
            for weight, step in zip(weights, steps.view(len(weights), *weights[0].shape), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> about the nearest matrices with all singular values 1.

    Five steps of a Newton-Schulz iteration: a polynomial in X Xᵀ pushes each singular value to between 0.7 and 1.2,
    with matrix products only. The three coefficients are Jordan's.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # now no singular value is above 1
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW alone, or AdamW and Muon. Weight decay pulls on matrices only: a bias or a norm's scale has nothing to
    gain from being small, and an embedding row would shrink each time its token does not occur."""
    linear = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    linear.pop(id(model.wte.weight), None)  # a tied head is an embedding
    parameters = list(model.parameters())
    matrices = [p for p in parameters if id(p) in linear]
    blocks = [p for p in matrices if linear[id(p)].startswith("h.")] if config.optimizer == "muon" else []
    taken = {id(p) for p in blocks}
    groups = [
        {"params": [p for p in matrices if id(p) not in taken], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in linear], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    fused = parameters[0].device.type in ("cpu", "cuda")  # one kernel for all parameters
    optimizers = [torch.optim.AdamW([g for g in groups if g["params"]], config.learning_rate, betas, fused=fused)]
    if blocks:
        groups = {}
        for p in blocks:
            stack = 3 if linear[id(p)].endswith("c_attn") else 1
            groups.setdefault((p.shape, stack), {"params": [], "stack": stack})["params"].append(p)
        optimizers.append(Muon(list(groups.values()), config.muon_learning_rate, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["highest_lr"] = group["lr"]
    return optimizers


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of step 0, 1, … as a part of the highest: warm-up, constant, then down to `final_lr`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = max(config.warmup_steps, round(config.steps * (1 - config.decay_part)))
    if config.schedule == "constant" or step < start:
        return 1.0
    done = (step - start) / max(1, config.steps - 1 - start)  # 0 at the start of the fall, 1 at the last step
    fall = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.final_lr + (1 - config.final_lr) * fall
