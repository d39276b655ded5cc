"""What the playground in web/ needs and cannot hold in git: the trained models as scripts. And what shows it elsewhere.

usage: playground.py weights [FOLDER]    write the models into FOLDER, or web/weights
       playground.py animation [FILE]    film the page into FILE, or figures/playground.webp (it takes chromium)

A browser refuses to read a file next to a page that was opened by double click, but it runs a script that is there. So the
numbers of a checkpoint are written as one: base64, inside it deflate, inside it float16 numbers. web/picogpt.js unpacks them.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import io
import json
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

import picogpt
import picogpt_core as pc

WEB = picogpt.ROOT / "web"
ANIMATION = picogpt.ROOT / "figures" / "playground.webp"
FILM = (750, 690)  # pixels: three quarters of what the browser shows
# Each model, and how many bits of each float16 number are kept. Five bits less cost the small pair less than 0.001 of loss
# (benchmarks/playground_loss.py measures it) and keep everything below 8 MB.
SHIPPED = {"picogpt": 16, "honest": 11, "unmasked": 11}


def rounded(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Return float32 `numbers` as float16, of which the last 16 - `bits` binary digits are 0. The shape stays."""
    pattern = numbers.astype("<f2").view("<u2").astype(np.uint32)
    drop = 16 - bits
    half = (1 << drop) >> 1  # rounds up or down; a carry into the exponent is right, and no weight is near the largest float16
    return ((pattern + half) >> drop << drop).astype("<u2").view("<f2")


def checkpoint(name: str) -> Path:
    return picogpt.DATA / "checkpoints" / f"{name}.safetensors"


def checksum(name: str) -> str:
    """Return a short sha256 of a model's checkpoint, to recognise it."""
    return hashlib.sha256(checkpoint(name).read_bytes()).hexdigest()[:12]


@functools.cache
def script(name: str) -> str:
    """Return the JavaScript file that holds one of the shipped models."""
    saved = picogpt.load_checkpoint(checkpoint(name))
    tensors = {key: rounded(value.numpy(), SHIPPED[name]) for key, value in saved.model.state_dict().items()}
    planes = np.concatenate([value.ravel() for value in tensors.values()]).view(np.uint8).reshape(-1, 2)  # low, high byte
    contents = dict(
        about=dict(
            parameters=pc.count_parameters(saved.model),
            val_loss=saved.about["val_loss"],
            checkpoint=checksum(name),
        ),
        config=dataclasses.asdict(saved.model.config),
        **saved.tokenizer.saved,
        tensors=[(key, value.size) for key, value in tensors.items()],
        data=base64.b64encode(zlib.compress(planes[:, 1].tobytes() + planes[:, 0].tobytes(), 9)).decode(),
    )
    return (
        f"// The model {name}, from data/checkpoints/{name}.safetensors. Written by tools/playground.py: do not edit.\n"
        f"globalThis.PICOGPT_WEIGHTS = {{ ...globalThis.PICOGPT_WEIGHTS, {json.dumps(name)}: {json.dumps(contents)} }};\n"
    )


def write_weights(folder: Path) -> list[Path]:
    """Write the script of each shipped model into `folder`. Return the files."""
    files = []
    for name in SHIPPED:
        files.append(folder / f"{name}.js")
        with picogpt.atomic_write(files[-1]) as temporary:
            temporary.write_text(script(name), encoding="utf-8")
    return files


def film(file: Path) -> None:
    """Open the real page, do what a reader would do, and write the screenshots as an animated WebP."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    pc.require(chromium is not None, "there is no chromium here to film the page with: apt-get install chromium")
    frames: list[tuple[Image.Image, int]] = []  # each with the milliseconds that it is shown
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(WEB, Path(folder) / "web", ignore=shutil.ignore_patterns("weights"))
        write_weights(Path(folder) / "web" / "weights")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1000, "height": 920}, reduced_motion="reduce", color_scheme="light")
        page.set_default_timeout(300_000)
        page.goto((Path(folder) / "web" / "playground.html").as_uri())
        page.add_style_tag(content=".picogpt .status { visibility: hidden }")  # the speed of a machine that takes pictures
        page.locator("[data-playground=mask]").scroll_into_view_if_needed()  # it begins when it is near
        page.locator(".mask .plain").nth(1).locator("span").nth(199).wait_for(state="attached")  # all is written

        def shot(piece: str, milliseconds: int) -> None:
            page.locator(piece).evaluate("it => it.scrollIntoView()")
            picture = Image.open(io.BytesIO(page.screenshot()))  # what is in sight
            frames.append((picture.convert("RGB").resize(FILM, Image.Resampling.LANCZOS), milliseconds))

        def move(slider: int, values: list[float], milliseconds: int = 140) -> None:
            handle = page.locator(".write input[type=range]").nth(slider)
            for value in values:
                handle.evaluate("(it, to) => { it.value = to; it.dispatchEvent(new Event('input')); }", value)
                page.locator(".write button", has_text="Stop").wait_for(state="hidden")
                shot(".write", milliseconds)
            frames[-1] = (frames[-1][0], 1500)

        move(4, list(range(0, 200, 12)), 90)  # the length: it writes
        move(0, [0.6, 0.4, 0.2, 0])  # the temperature: greedy, then hot
        move(0, [0.4, 0.8, 1.2, 1.6, 2])
        move(0, [1.4, 0.8])
        page.locator(".write .text span").nth(90).click()
        shot(".write", 1200)
        page.locator(".tiles [aria-label*=' 1 back']").first.click()
        for letter in (90, 91, 92, 93, 94):
            page.locator(".write .text span").nth(letter).click()
            shot(".write", 500)
        page.locator(".mask input[type=radio]").nth(0).check()
        shot(".mask", 2500)
        page.locator(".mask input[type=radio]").nth(1).check()
        shot(".mask", 4000)
        browser.close()
    pictures, times = zip(*frames, strict=True)
    with picogpt.atomic_write(file) as temporary:
        how = dict(save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=70, method=6, minimize_size=True)
        pictures[0].save(temporary, "WEBP", **how)


def main(words: list[str]) -> int:
    match words:
        case ["weights", *rest] if len(rest) < 2:
            for file in write_weights(Path(*rest) if rest else WEB / "weights"):
                print(f"{file}, {file.stat().st_size / 1e6:.2f} MB")
        case ["animation", *rest] if len(rest) < 2:
            file = Path(*rest) if rest else ANIMATION
            film(file)
            print(f"{file}, {file.stat().st_size / 1e6:.2f} MB")
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
