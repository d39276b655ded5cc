"""Does the playground's JavaScript compute what PyTorch computes? On the whole validation text, once, in Node.

    python benchmarks/playground_loss.py [name ...]

For each shipped model: the loss on the whole validation text in both, the largest difference of a logit on 200 of its windows,
and of how many greedy characters the first differs (beyond block_size too). The tests ask the same of shorter pieces.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import picogpt
import picogpt_core as pc

sys.path.insert(0, str(picogpt.ROOT / "tools"))
import playground

TABLE = picogpt.DATA / "runs" / "playground.csv"
WINDOWS, GREEDY = 200, 300
PROGRAM = """
const [core, weights, name, input, output] = process.argv.slice(1), fs = require("fs");
const PicoGPT = require(core);
require(weights);
PicoGPT.load_shipped(name).then(({ model, tokenizer }) => {
  const { ids, windows, step, greedy } = JSON.parse(fs.readFileSync(input)), file = fs.openSync(output, "w");
  let total = 0, n = 0;
  for (const [x, y] of PicoGPT.side_by_side(model, ids)) {
    const logits = model.forward(x); // (T, V)
    total += PicoGPT.cross_entropy(logits, y) * y.length;
    if (n % step === 0 && n / step < windows) fs.writeSync(file, logits);
    n++;
  }
  const settings = new PicoGPT.SampleConfig({ max_new_tokens: greedy, temperature: 0 });
  const text = [...PicoGPT.generate(model, tokenizer.encode("\\n"), settings)].map(({ id }) => tokenizer.chars[id]).join("");
  console.log(JSON.stringify({ loss: total / (ids.length - 1), text }));
});
"""


@torch.no_grad()
def compared(name: str) -> dict:
    """Return a row of the table: one model in both."""
    ids = picogpt.load_corpus().val  # (N,)
    model, tokenizer = picogpt.load_shipped(name)[:2]
    T = model.config.block_size
    step = (len(ids) - 1) // T // WINDOWS  # every second window, or every fourth
    with tempfile.TemporaryDirectory() as folder:
        playground.write_weights(Path(folder))
        job, logits = Path(folder) / "job.json", Path(folder) / "logits"
        job.write_text(json.dumps(dict(ids=ids.tolist(), windows=WINDOWS, step=step, greedy=GREEDY)))
        files = [playground.WEB / "picogpt.js", Path(folder) / f"{name}.js"]
        line = ["node", "-e", PROGRAM, *map(str, files), name, str(job), str(logits)]
        answer = json.loads(subprocess.check_output(line, text=True))
        theirs = torch.from_numpy(np.fromfile(logits, np.float32)).view(WINDOWS, T, -1)
    loss = pc.evaluate(model, ids)
    with torch.no_grad():
        for parameter in model.parameters():  # what the browser gets
            parameter.copy_(torch.from_numpy(playground.rounded(parameter.numpy(), playground.SHIPPED[name]).astype("f4")))
    some = ids[: (len(ids) - 1) // T * T].view(-1, T)[::step][:WINDOWS]  # (WINDOWS, T)
    apart = max((model(window[None])[0] - right).abs().max().item() for window, right in zip(some, theirs, strict=True))
    greedy = picogpt.generate_text(model, tokenizer, "\n", pc.SampleConfig(GREEDY, temperature=0))[1:]
    same = next((i for i in range(GREEDY) if greedy[i] != answer["text"][i]), GREEDY)
    return dict(
        model=name,
        bits=playground.SHIPPED[name],
        characters=len(ids) - 1,
        loss_pytorch=loss,
        loss_javascript=answer["loss"],
        logits_apart=apart,
        greedy_same=same,
        checkpoint=playground.checksum(name),
        machine=picogpt.describe_machine(),
    )


def main() -> None:
    torch.set_num_threads(1)
    done = {row["model"]: row for row in (picogpt.load_rows(TABLE) if TABLE.exists() else [])}
    for name in sys.argv[1:] or playground.SHIPPED:
        done[name] = compared(name)
        print(done[name], flush=True)
        picogpt.save_rows(TABLE, [done[each] for each in playground.SHIPPED if each in done])


if __name__ == "__main__":
    main()
