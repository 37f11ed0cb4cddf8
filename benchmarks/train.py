"""Samples a second of `stillroom train`, beside `open_clip_train` and beside the bare model.

    python benchmarks/train.py             # half an hour on 2 cores
    python benchmarks/train.py --quick     # 10 minutes

Three cases, all from JPEGs of 256 to 400 px in tar shards that it draws itself: CLIP's ViT-B/32; a small ViT at 64 px
and a text tower of CLIP's kind, both trained; and an image tower beside a locked MiniLM. "bare" is the model alone on
tensors that are ready: forward, InfoNCE, backward and AdamW, with texts cut behind the longest of the batch and, where
the text tower is locked, its features stored. Every figure comes from a process of its own and leaves the first steps
out; the best of the repetitions counts. What a run does once (reading what fits in memory, encoding the captions of a
locked tower) is not in the rate; it is in the seconds before the first step.

`open_clip_train` of open_clip_torch 3.3 needs webdataset 0.2.86 and pandas; pip puts them into a temporary folder that
only its process sees. Where pip cannot, open_clip is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEER_PACKAGES = ("webdataset==0.2.86", "pandas", "python-dateutil", "pytz", "tzdata", "six")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = ("a", "an", "the", "of", "in", "on", "with", "and", "two", "red", "green", "old", "small", "line", "drawing")
WORDS += ("house", "tree", "bird", "cat", "wheel", "star", "flower", "ship")
# Steps between two figures, in our log and in open_clip's.
WINDOW, PEER_WINDOW = 20, 5


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and a batch.

    Attributes:
        title: printed.
        model_cfg: open_clip's.
        batch: pairs a step.
        steps: of our run; open_clip takes `peer_steps`.
        peer_steps: of open_clip's run.
        lock_text: whether the text tower is locked.
    """

    title: str
    model_cfg: dict[str, Any]
    batch: int
    steps: int
    peer_steps: int
    lock_text: bool = False


def text_tower(width: int, layers: int) -> dict[str, Any]:
    """CLIP's kind of text tower."""
    return {"context_length": 77, "vocab_size": 49408, "width": width, "heads": width // 64, "layers": layers}


def image_tower(size: int, patch: int, width: int, layers: int) -> dict[str, Any]:
    """CLIP's kind of image tower."""
    return {"image_size": size, "patch_size": patch, "width": width, "layers": layers, "head_width": 64}


CASES = {
    "vitb32": Case(
        title="CLIP's ViT-B/32 at 224 px, both towers trained",
        model_cfg={"embed_dim": 512, "vision_cfg": image_tower(224, 32, 768, 12), "text_cfg": text_tower(512, 12)},
        batch=16,
        steps=3 * WINDOW,
        peer_steps=2 * WINDOW,
    ),
    "both": Case(
        title="both towers trained, ViT of 6 layers at 64 px",
        model_cfg={"embed_dim": 256, "vision_cfg": image_tower(64, 16, 256, 6), "text_cfg": text_tower(256, 4)},
        batch=64,
        steps=6 * WINDOW,
        peer_steps=4 * WINDOW,
    ),
    "locked": Case(
        title="MobileNetV2 0.5 at 48 px beside a locked MiniLM",
        model_cfg={
            "embed_dim": 256,
            "vision_cfg": {"timm_model_name": "mobilenetv2_050", "timm_pool": "avg", "image_size": 48},
            "text_cfg": {
                "hf_model_name": MINILM,
                "hf_tokenizer_name": MINILM,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "linear",
                "context_length": 77,
            },
        },
        batch=128,
        steps=12 * WINDOW,
        peer_steps=2 * WINDOW,
        lock_text=True,
    ),
}


def write_shards(folder: Path, *, pairs: int, shards: int) -> None:
    """Write tars of JPEGs, lines and noise on a light ground, with captions of 4 to 14 words."""
    import numpy as np
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(0)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(shard * pairs // shards, (shard + 1) * pairs // shards):
                width, height = (int(side) for side in rng.integers(256, 401, 2))
                image = Image.new("RGB", (width, height), tuple(rng.integers(200, 256, 3).tolist()))
                draw = ImageDraw.Draw(image)
                for _ in range(12):
                    corners = [tuple(corner) for corner in (rng.random((2, 2)) * (width, height)).tolist()]
                    draw.line(corners, fill=tuple(rng.integers(0, 256, 3).tolist()), width=int(rng.integers(1, 9)))
                pixels = np.asarray(image, dtype=np.int16) + rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
                stream = io.BytesIO()
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
                caption = " ".join(rng.choice(WORDS, rng.integers(4, 15)))
                for extension, content in (("jpg", stream.getvalue()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{index:06d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def ours(case: Case, folder: Path, steps: int, *, cache_mb: int) -> dict[str, float]:
    """Run our trainer; return the rate of its own log, without the first window."""
    from stillroom.config_io import build
    from stillroom.train.config import TrainConfig
    from stillroom.train.run import run

    recipe = {
        "model": {"open_clip": {"model_cfg": case.model_cfg}, "lock_text": case.lock_text},
        "loss": {"contrastive": "info_nce", "concept_weight": 0.0},
        "samples": steps * case.batch,
        "batch_size": case.batch,
        "pixel_cache_mb": cache_mb,
        "checkpoint_samples": 10**9,
        "device": "cpu",
    }
    begin = time.time()
    with tempfile.TemporaryDirectory() as out:
        run(str(folder / "*.tar"), build(TrainConfig, recipe, source="benchmark"), Path(out) / "run")
        rows = [json.loads(line) for line in (Path(out) / "run" / "speed.jsonl").read_text().splitlines()]
        whole = time.time() - begin
    rates = [row["samples_per_second"] for row in rows]
    seconds = sum(WINDOW * case.batch / rate for rate in rates)
    return {
        "rate": len(rates[1:]) / sum(1 / rate for rate in rates[1:]),
        "wait": sum(row["data_wait"] for row in rows[1:]) / len(rows[1:]),
        "before": whole - seconds,
    }


def theirs(case: Case, folder: Path, steps: int) -> dict[str, float]:
    """Run open_clip's trainer; return the rate of its log, without the first two figures."""
    from stillroom.model.checkpoint import save_model_config
    from stillroom.model.towers import create_model, create_tokenizer, with_local_text

    described = with_local_text({"model_cfg": case.model_cfg, "preprocess_cfg": {}})
    shards = len(list(folder.glob("*.tar")))
    with tempfile.TemporaryDirectory() as place:
        save_model_config(Path(place) / "model", described, create_model(described), create_tokenizer(described))
        command = [sys.executable, "-m", "open_clip_train.main", "--model", f"local-dir:{place}/model"]
        command += ["--train-data", f"{folder}/{{00000..{shards - 1:05d}}}.tar", "--dataset-type", "webdataset"]
        command += ["--train-num-samples", str(steps * case.batch), "--batch-size", str(case.batch), "--epochs", "1"]
        command += ["--workers", str(os.cpu_count()), "--precision", "fp32", "--device", "cpu", "--warmup", "10"]
        command += [
            "--logs",
            place,
            "--name",
            "run",
            "--log-every-n-steps",
            str(PEER_WINDOW),
            "--aug-cfg",
            "scale=(0.9, 1.0)",
        ]
        command += ["--lock-text"] if case.lock_text else []
        done = subprocess.run(command, capture_output=True, text=True)
        log = Path(place) / "run" / "out.log"
        lines = log.read_text() if log.exists() else ""
    rows = re.findall(r"Data \(t\): ([\d.]+) Batch \(t\): ([\d.]+),", lines)[2:]
    if done.returncode or not rows:
        raise SystemExit(f"open_clip_train failed: {done.stderr[-2000:]}")
    waited, seconds = (sum(float(row[part]) for row in rows) for part in (0, 1))
    return {"rate": case.batch * len(rows) / seconds, "wait": waited / seconds}


def bare(case: Case, steps: int) -> dict[str, float]:
    """Time the model alone on tensors that are ready."""
    import random

    import torch
    import torch.nn.functional as F

    from stillroom.model.locking import lock_towers, set_training_mode
    from stillroom.model.parts import encode_text, text_head, text_trunk, trim_padding
    from stillroom.model.towers import create_model, create_tokenizer

    torch.manual_seed(0)
    described = {"model_cfg": case.model_cfg}
    model, tokenizer = create_model(described), create_tokenizer(described)
    lock_towers(model, lock_text=case.lock_text)
    model.to(memory_format=torch.channels_last)
    set_training_mode(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, fused=True)
    side = case.model_cfg["vision_cfg"]["image_size"]
    pictures = torch.randn(case.batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    random.seed(0)
    captions = [" ".join(random.choices(WORDS, k=random.randint(4, 14))) for _ in range(case.batch)]
    tokens = trim_padding(model, tokenizer(captions))
    with torch.no_grad():
        stored = text_trunk(model, tokens) if case.lock_text else None
    labels = torch.arange(case.batch)
    begin = math.nan
    for step in range(steps):
        if step == steps // 4:
            begin = time.perf_counter()
        image = F.normalize(model.encode_image(pictures), dim=-1)
        text = F.normalize(encode_text(model, tokens) if stored is None else text_head(model)(stored), dim=-1)
        logits = model.logit_scale.exp() * image @ text.T
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
    return {"rate": case.batch * (steps - steps // 4) / (time.perf_counter() - begin)}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Run one case with one method in this process."""
    case, folder = CASES[arguments.case], Path(arguments.data)
    if arguments.method == "bare":
        return bare(case, arguments.steps)
    if arguments.method == "open_clip":
        return theirs(case, folder, arguments.steps)
    return ours(case, folder, arguments.steps, cache_mb=4096 if arguments.method == "memory" else 0)


def measure_apart(name: str, method: str, steps: int, data: Path, peer: Path | None, repeats: int) -> dict[str, float]:
    """Run one case in processes of their own; return the fastest."""
    command = [sys.executable, __file__, "--method", method, "--case", name, "--steps", str(steps), "--data", str(data)]
    paths = [str(peer)] if method == "open_clip" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])}
    results = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{name}, {method}: {done.stderr[-2000:]}")
        results.append(json.loads(done.stdout.splitlines()[-1]))
    return max(results, key=lambda result: result["rate"])


def install_peer(folder: Path) -> Path | None:
    """Put what open_clip's trainer needs into a folder; None, with a line, if that is not possible."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PEER_PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return folder
    print(
        f"open_clip is left out: pip cannot install {PEER_PACKAGES[0]}: {(done.stderr.strip() or '?').splitlines()[-1]}"
    )
    return None


def print_case(name: str, data: Path, peer: Path | None, *, quick: bool, repeats: int) -> None:
    """One line a method, with ratios to the bare model and to open_clip."""
    case = CASES[name]
    print(f"\n{case.title}, batch {case.batch}, float32, {os.cpu_count()} cores")
    print(f"{'':<22}{'samples/s':>10}{'/ bare':>8}{'/ open_clip':>13}{'waiting':>9}{'s before':>10}")
    steps = {"bare": case.steps // 2, "open_clip": case.peer_steps, "shards": case.steps, "memory": case.steps}
    labels = {
        "bare": "bare model",
        "open_clip": "open_clip_train",
        "shards": "ours, from shards",
        "memory": "ours, from memory",
    }
    # The first window, or two of open_clip's figures, are left out.
    least = {"bare": WINDOW, "open_clip": 4 * PEER_WINDOW, "shards": 2 * WINDOW, "memory": 2 * WINDOW}
    results: dict[str, dict[str, float]] = {}
    for method, label in labels.items():
        if method == "open_clip" and peer is None:
            continue
        count = max(steps[method] // 2, least[method]) if quick else steps[method]
        results[method] = result = measure_apart(name, method, count, data, peer, repeats)
        ratios = [
            f"{result['rate'] / results[other]['rate']:.2f}" if other in results else ""
            for other in ("bare", "open_clip")
        ]
        wait = f"{result['wait']:.0%}" if "wait" in result else ""
        before = f"{result['before']:.1f}" if "before" in result else ""
        print(f"{label:<22}{result['rate']:>10.1f}{ratios[0]:>8}{ratios[1]:>13}{wait:>9}{before:>10}", flush=True)


def main() -> None:
    """Print the tables, or with --method measure one case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half the steps, one repetition")
    parser.add_argument("--cases", choices=list(CASES), nargs="+", help="which cases (all)")
    parser.add_argument("--pairs", type=int, default=4096, help="pairs in the shards (4096)")
    parser.add_argument("--repeats", type=int, default=2, help="repetitions, of which the fastest counts (2)")
    parser.add_argument("--method", choices=["bare", "open_clip", "shards", "memory"], help="measure one only, as JSON")
    parser.add_argument("--case", choices=list(CASES), default="both", help="with --method")
    parser.add_argument("--steps", type=int, default=2 * WINDOW, help="with --method")
    parser.add_argument("--data", help="folder of shards; with --method")
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shards"
        data.mkdir()
        write_shards(data, pairs=2048 if arguments.quick else arguments.pairs, shards=max(8, os.cpu_count() or 1))
        peer = install_peer(Path(folder) / "peer")
        for name in arguments.cases or list(CASES):
            print_case(name, data, peer, quick=arguments.quick, repeats=1 if arguments.quick else arguments.repeats)


if __name__ == "__main__":
    main()
