"""Training loops in many styles, each with faults that can be planted; the words of a fault's cause are in FAULTS."""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

V, T, B = 61, 16, 4


class Layer(nn.Module):
    def __init__(self, d, p):
        super().__init__()
        self.n1, self.n2, self.drop = nn.LayerNorm(d), nn.LayerNorm(d), nn.Dropout(p)
        self.qkv, self.out, self.up, self.down = nn.Linear(d, 3 * d), nn.Linear(d, d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        q, k, v = (z.unflatten(-1, (2, -1)).transpose(1, 2) for z in self.qkv(self.n1(x)).chunk(3, -1))
        x = x + self.drop(self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)))
        return x + self.drop(self.down(F.gelu(self.up(self.n2(x)))))


class LM(nn.Module):
    """Returns logits, or (logits, loss) when it is given targets."""

    def __init__(self, p=0.1, d=16, layers=2):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, d), nn.Embedding(T, d)
        self.blocks = nn.ModuleList(Layer(d, p) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, V, bias=False)

    def forward(self, idx, targets=None):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.reshape(-1, V), targets.reshape(-1), ignore_index=-1)


TEXT = (torch.randint(1, 4, (4_000,), generator=torch.Generator().manual_seed(0)).cumsum(0) * 7) % V
SPLIT = {"train": TEXT[:3_600], "val": TEXT[3_600:]}


def get_batch(split, shift=1):
    data = SPLIT[split]
    ix = torch.randint(len(data) - T - 3, (B,))
    return torch.stack([data[i : i + T] for i in ix]), torch.stack([data[i + shift : i + shift + T] for i in ix])


# ----- ten styles. Each returns what is handed over: (step, arguments …)


def nanogpt(fault=None, wrap=lambda model: model, steps=8, scaling=True):
    """karpathy/nanoGPT's train.py: accumulation, GradScaler, clipping, its own schedule, estimate_loss."""

    def script():
        torch.manual_seed(1)
        raw = LM()
        micro_steps, interval = 4, 3
        optimizer = torch.optim.AdamW(
            [p for n, p in raw.named_parameters() if fault != "left out" or "blocks.1" not in n], 1e-3
        )
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaling)
        model = wrap(raw)

        @torch.no_grad()
        def estimate_loss():
            if fault == "seed reset":
                torch.manual_seed(1337)
            if fault != "evaluated in training":
                model.eval()
            for split in ("train", "val"):
                for _ in range(2):
                    model(*get_batch(split))
            if fault != "left in evaluation":
                model.train()

        shift = {"unshifted": 0, "shifted twice": 2}.get(fault, 1)
        x, y = get_batch("train", shift)
        for iteration in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (iteration + 1) / (steps + 1)
            if iteration % interval == 0:
                estimate_loss()
            for micro in range(micro_steps):
                _, loss = model(x, y)
                if fault != "not divided":
                    loss = loss / (micro_steps**2 if fault == "divided twice" else micro_steps)
                x, y = get_batch("train", shift)
                scaler.scale(loss).backward()
                if fault == "clipped in parts" and micro < micro_steps - 1:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                if fault == "cleared between" and micro < micro_steps - 1:
                    optimizer.zero_grad(set_to_none=True)
            if fault != "clipped scaled":
                scaler.unscale_(optimizer)
            if fault != "clipped in parts":
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            if fault == "stepped twice":
                optimizer.step()
            if fault != "not cleared":
                optimizer.zero_grad(set_to_none=True)

    return (script,)


def raschka(fault=None):
    """rasbt/LLMs-from-scratch, train_model_simple: loaders, calc_loss_batch, evaluate_model, generate_and_print_sample."""

    def calc_loss_batch(input_batch, target_batch, model):
        logits = model(input_batch)
        if fault == "double softmax":
            logits = logits.softmax(-1)
        if fault == "mixed axes":
            return F.cross_entropy(logits.transpose(1, 2).reshape(-1, V), target_batch.flatten())
        if fault == "other order":
            return F.cross_entropy(logits.transpose(0, 1).flatten(0, 1), target_batch.flatten())
        if fault == "summed":
            return F.cross_entropy(logits.flatten(0, 1), target_batch.flatten(), reduction="sum")
        return F.cross_entropy(logits.flatten(0, 1), target_batch.flatten())

    def evaluate_model(model, loaders):
        if fault != "evaluated in training":
            model.eval()
        with contextlib.nullcontext() if fault == "graph" else torch.no_grad():
            for loader in loaders:
                for batch in loader[:2]:
                    calc_loss_batch(*batch, model)
        if fault == "other weights":
            with torch.no_grad():
                for p in model.parameters():
                    p.data.mul_(0.99)  # the average that was evaluated
        if fault != "left in evaluation":
            model.train()

    def train_model_simple(model, train_loader, val_loader, optimizer, num_epochs, eval_freq):
        global_step = -1
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50) if fault == "scheduled first" else None
        for _ in range(num_epochs):
            model.train()
            for input_batch, target_batch in train_loader:
                if scheduler:
                    scheduler.step()
                if fault != "not cleared":
                    optimizer.zero_grad()
                loss = calc_loss_batch(input_batch, target_batch, model)
                loss.backward()
                if fault == "cleared early":
                    optimizer.zero_grad()
                optimizer.step()
                if fault == "clipped late":
                    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                global_step += 1
                if global_step % eval_freq == 0:
                    evaluate_model(model, (train_loader, val_loader))
                    if fault == "seed reset":
                        torch.manual_seed(123)

    torch.manual_seed(123)
    model = LM()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    if fault == "replaced":
        model.head = nn.Linear(16, V, bias=False)
    shift = {"unshifted": 0, "shifted twice": 2, "shifted back": -1}.get(fault, 1)
    loaders = [[windows(i, split, shift) for i in range(n)] for split, n in (("train", 12), ("val", 3))]
    return train_model_simple, model, *loaders, optimizer, 2, 5


def windows(i, split, shift=1):
    start = 1 + i * B * T
    rows = [SPLIT[split][start + b * T - 1 : start + (b + 1) * T + 3] for b in range(B)]
    return torch.stack([r[1 : T + 1] for r in rows]), torch.stack([r[1 + shift : T + 1 + shift] for r in rows])


class MinGPTTrainer:
    """karpathy/minGPT's Trainer: an object with run(), callbacks, an endless iterator."""

    def __init__(self, model, fault=None):
        self.model, self.fault, self.iter_num = model, fault, 0
        model = LM() if fault == "other model" else model
        decay = [p for p in model.parameters() if p.dim() >= 2]
        rest = [p for p in model.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        if fault == "left out":
            groups = groups[:1]
        if fault == "group rate 0":
            groups[1]["lr"] = 0.0
        self.optimizer = torch.optim.AdamW(groups, lr=0.0 if fault == "rate 0" else 5e-4, betas=(0.9, 0.95))
        self.parameters = iter(list(model.parameters()))

    def run(self):
        self.model.train()
        for self.iter_num in range(60):
            x, y = get_batch("train")
            _, self.loss = self.model(x, y)
            if self.fault != "not cleared":
                self.model.zero_grad(set_to_none=self.fault != "set to zero")
            self.loss.backward()
            torch.nn.utils.clip_grad_norm_(
                list(self.parameters) if self.fault == "clipped nothing" else self.model.parameters(), 1.0
            )
            self.optimizer.step()
            if self.iter_num % 10 == 9:
                self.on_batch_end()

    def on_batch_end(self):
        self.model.eval()
        with torch.no_grad():
            self.sample(torch.zeros(1, 1, dtype=torch.long))
        if self.fault != "left in evaluation":
            self.model.train()

    def sample(self, idx):
        for _ in range(3):
            idx = torch.cat((idx, self.model(idx[:, -T:])[:, -1].softmax(-1).multinomial(1)), dim=1)


def mingpt(fault=None):
    torch.manual_seed(3)
    return (MinGPTTrainer(LM(), fault),)


class LitGPT(nn.Module):
    """A LightningModule, as far as a loop needs one: training_step, validation_step, configure_optimizers."""

    def __init__(self, fault=None):
        super().__init__()
        self.model, self.fault = LM(), fault

    def training_step(self, batch, batch_idx):
        ids = batch["input_ids"]
        logits = self.model(ids)
        if self.fault == "unshifted":
            return F.cross_entropy(logits.transpose(1, 2), ids)
        if self.fault == "summed":
            return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="sum") / len(ids)
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        if self.fault == "replaced":
            self.model.blocks[1] = Layer(16, 0.1)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=40)


class Fit:
    """Lightning's automatic optimisation: a closure is handed to the optimizer."""

    def __init__(self, accumulate=1, fault=None):
        self.accumulate, self.fault = accumulate, fault

    def fit(self, module, batches):
        optimizer, scheduler = module.configure_optimizers()
        module.train()
        for i, batch in enumerate(batches):

            def closure(batch=batch, i=i):
                loss = module.training_step(batch, i)
                if i % self.accumulate == 0 and self.fault != "not cleared":
                    optimizer.zero_grad()
                (loss / (1 if self.fault == "not divided" else self.accumulate)).backward()
                if self.fault == "clipped in parts":
                    torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
                return loss

            if (i + 1) % self.accumulate:
                closure()
                if self.fault == "scheduled too often":
                    scheduler.step()
            else:
                optimizer.step(closure)
                scheduler.step()


def lightning(fault=None, accumulate=1):
    torch.manual_seed(4)
    batches = [{"input_ids": get_batch("train")[0]} for _ in range(12)]
    return Fit(accumulate, fault).fit, LitGPT(fault), batches


def function(fault=None):
    """step(model, optimizer, batch), with a loss written out by hand."""

    def train_step(model, optimizer, batch):
        x, y = batch
        logits = model(x)
        if fault == "detached":
            logits = model.head(model.norm(logits_before(model, x).detach()))
        each = -logits.log_softmax(-1).gather(-1, y[..., None])  # (B, T, 1)
        mask = torch.ones(B, T)
        if fault == "masked mean":
            mask[:, 10:] = 0
            loss = (each.squeeze(-1) * mask).mean()
        elif fault == "broadcast":
            loss = (each.flatten() * mask.reshape(-1, 1)).sum() / mask.sum()
        else:
            loss = (each.squeeze(-1) * mask).sum() / mask.sum()
        if fault == "sign":
            loss = -loss
        if fault == "summed":
            loss = each.sum()
        if fault == "no graph":
            loss = torch.tensor(loss.item())
        loss.backward()
        if fault == "stepped twice":
            optimizer.step()
        optimizer.step()
        if fault != "not cleared":
            optimizer.zero_grad()
        return loss.item()

    torch.manual_seed(5)
    model = LM()
    if fault == "evaluation mode":
        model.eval()
    shift = {"unshifted": 0, "shifted twice": 2, "shifted back": -1}.get(fault, 1)
    return train_step, model, torch.optim.SGD(model.parameters(), 0.1), windows(3, "train", shift)


def logits_before(model, x):
    x = model.wte(x) + model.wpe(torch.arange(x.shape[1]))
    for block in model.blocks:
        x = block(x)
    return x


def closure(fault=None):
    """A closure without arguments that does everything; llm.c's loop, with the validation batch in buffers of its own."""
    torch.manual_seed(6)
    model = LM(p=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 4))  # the first rate is 0
    if fault == "other scheduler":
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def everything():
        x, y = get_batch("train")
        buffer = torch.empty_like(x), torch.empty_like(y)
        for step in range(30):
            if step % 5 == 0:
                with torch.no_grad():
                    for _ in range(2):
                        vx, vy = get_batch("val")
                        if fault == "validation batch":
                            x, y = vx, vy
                        if fault == "validation buffer":
                            x.copy_(vx), y.copy_(vy)
                        buffer[0].copy_(vx), buffer[1].copy_(vy)
                        model(*buffer)
            z = model(x)
            loss = (z.logsumexp(-1) - z.gather(-1, y[..., None]).squeeze(-1)).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if fault == "scheduled too often":
                scheduler.step()
            for p in model.parameters():
                p.grad = None
            x, y = get_batch("train")

    return (everything,)


def generator(fault=None):
    """A generator that yields the loss of each step, over a recurrent state that must be detached."""

    def loop():
        model, cell = LM(), nn.GRUCell(16, 16)
        both = nn.ModuleList([model, cell])
        optimizer = torch.optim.Adam(both.parameters() if fault != "left out" else model.parameters(), 1e-3)
        state = torch.zeros(B, 16)
        for i in range(8):
            x, y = windows(i, "train")
            state = cell(model.wte(x[:, 0]), state if fault == "graph carried" else state.detach())
            logits = model(x) + F.linear(state, model.head.weight)[:, None]
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    return (loop,)


class ComputesLoss:
    """Returns its loss and leaves the rest to a trainer."""

    def __init__(self, fault=None):
        self.model, self.fault = LM(), fault

    def training_step(self):
        x, y = get_batch("train", shift={"unshifted": 0, "shifted twice": 2}.get(self.fault, 1))
        return self.model(x, y)[1]


def only_loss(fault=None):
    return (ComputesLoss(fault),)


def makes_a_step(fault=None):
    """A function that makes (step, model, optimizer, batch)."""
    return (lambda: function(fault),)


def hugging_face(fault=None):
    """A loop in the way of transformers' examples: labels are the ids, the model shifts, get_scheduler, tokens of each
    micro-batch counted."""
    from transformers import GPT2Config, GPT2LMHeadModel, get_scheduler

    torch.manual_seed(7)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=T, n_embd=16, n_layer=2, n_head=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    lr_scheduler = get_scheduler("linear", optimizer, num_warmup_steps=2, num_training_steps=40)
    lengths = (T, T, 5, T)

    def micro_batches():
        for length in lengths:
            ids = get_batch("train")[0]
            labels = ids.clone()
            labels[:, length:] = -100
            if fault == "shifted twice":
                ids, labels = ids[:, :-1], labels[:, 1:]
            yield dict(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids))

    def train():
        model.train()
        for _ in range(5):
            batches = list(micro_batches())
            tokens = sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches)
            for batch in batches:
                if fault in ("uneven", "shifted twice"):
                    loss = model(**batch).loss / len(batches)
                else:
                    logits = model(**batch).logits[:, :-1].flatten(0, 1)
                    loss = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), reduction="sum") / tokens
                loss.backward()
                if fault == "scheduled too often":
                    lr_scheduler.step()
            optimizer.step()
            if fault != "scheduled too often":
                lr_scheduler.step()
            optimizer.zero_grad()

    return (train,)


STYLES = dict(
    nanogpt=nanogpt,
    raschka=raschka,
    mingpt=mingpt,
    lightning=lightning,
    lightning_accumulating=lambda fault=None: lightning(fault, accumulate=3),
    function=function,
    closure=closure,
    generator=generator,
    only_loss=only_loss,
    makes_a_step=makes_a_step,
    hugging_face=hugging_face,
)

# fault: (check, words of its cause, styles)
FAULTS = {
    "not cleared": ("cleared", "not cleared between optimizer steps", "nanogpt raschka mingpt lightning function makes_a_step"),
    "cleared between": ("cleared", "cleared for each micro-batch", "nanogpt"),
    "cleared early": ("cleared", "between backward() and step()", "raschka"),
    "stepped twice": ("cleared", "steps twice for one backward", "nanogpt function"),
    "left out": ("optimizer", "no optimizer that steps holds them", "nanogpt mingpt generator"),
    "replaced": ("optimizer", "made before these parameters", "raschka lightning"),
    "other model": ("optimizer", "another model's parameters", "mingpt"),
    "rate 0": ("moves", "learning rate is 0 in every step", "mingpt"),
    "detached": ("moves", "no gradient reaches them", "function"),
    "not divided": ("accumulation", "not divided by their number", "nanogpt lightning_accumulating"),
    "divided twice": ("accumulation", "divided by the number of micro-batches twice", "nanogpt"),
    "scheduled too often": ("rate", "the rate falls too early", "lightning_accumulating closure hugging_face"),
    "other scheduler": ("rate", "belongs to another optimizer", "closure"),
    "clipped scaled": ("clipping", "GradScaler", "nanogpt"),
    "clipped in parts": ("clipping", "single micro-batches", "nanogpt"),
    "clipped late": ("clipping", "nothing to clip", "raschka"),
    "clipped nothing": ("clipping", "parameters without gradients", "mingpt"),
    "unshifted": ("targets", "it learns to copy", "nanogpt raschka lightning function only_loss"),
    "shifted twice": ("targets", "shifted twice", "nanogpt raschka function only_loss hugging_face"),
    "shifted back": ("targets", "the wrong way", "raschka function"),
    "other order": ("targets", "flattened in different orders", "raschka"),
    "mixed axes": ("loss", "mixes the axes", "raschka"),
    "double softmax": ("loss", "softmax is taken twice", "raschka"),
    "summed": ("loss", "summed", "raschka lightning function"),
    "broadcast": ("loss", "broadcast silently", "function"),
    "masked mean": ("loss", "masked ones (padding", "function"),
    "sign": ("loss", "sign of the loss is inverted", "function"),
    "no graph": ("trains", "no graph", "function"),
    "graph carried": ("trains", "of the step before", "generator"),
    "evaluation mode": ("mode", "trained in evaluation mode", "function"),
    "left in evaluation": ("mode", "leaves the model in evaluation mode", "nanogpt raschka mingpt"),
    "evaluated in training": ("mode", "evaluated, or sampled from, in training mode", "nanogpt raschka"),
    "validation batch": ("validation", "batch that was evaluated last", "closure"),
    "validation buffer": ("validation", "batch that was evaluated last", "closure"),
    "other weights": ("validation", "training continues with other weights", "raschka"),
    "seed reset": ("validation", "the random generator is reset", "nanogpt raschka"),
}
WARNINGS = {
    "graph": ("validation", "evaluation builds an autograd graph", "raschka"),
    "scheduled first": ("rate", "the first rate is skipped", "raschka"),
    "uneven": ("accumulation", "unequal numbers of tokens", "hugging_face"),
    "group rate 0": ("moves", "rate of their group is 0", "mingpt"),
}
