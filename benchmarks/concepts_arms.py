"""One arm of `concepts_worth.py`: the data made ready, a student trained on an arm's targets, its scores.

The trainer is stillroom's own; targets and heads are exchanged before it begins. No teacher runs during training:
labels and features are those that `stillroom concepts` stored.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from stillroom import demo
from stillroom.artifacts import StageWriter, open_stage
from stillroom.concepts.config import ConceptsConfig, HeadConfig
from stillroom.concepts.features import fixed_lists
from stillroom.concepts.join import PseudoLabels, load_pseudo_labels
from stillroom.concepts.labels import is_held_out
from stillroom.concepts.steps import FEATURES
from stillroom.model.parts import image_head, image_trunk, projection, text_head, text_trunk
from stillroom.train import gradients
from stillroom.train.optimizer import build_optimizer
from stillroom.train.sources import Sources
from stillroom.train.student import Embedded, Student, build_heads

ROOT = Path(__file__).resolve().parents[1]
# The digest of a caption sets it apart; the number differs from the seeds by which heads hold captions out.
VALIDATION_SHARE, VALIDATION_DRAW = 0.05, 20_000
Place = Literal["embedding", "features"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is chosen on validation.

    Attributes:
        weight: of each distillation term beside InfoNCE's 1.
        k: labels of a picture.
        heads_on: the image embedding, as stillroom has it, or what the image tower computes before its projection.
        centred: the mean feature is taken off the teacher's features, where these are distilled.
    """

    weight: float = 1.0
    k: int = 10
    heads_on: Place = "embedding"
    centred: bool = False


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What is distilled, from which labels (a folder of W), and where the heads sit."""

    title: str
    kinds: tuple[str, ...] = ()
    k: int | None = None
    labels: str = "concepts"
    features: bool = False
    heads_on: Place = "embedding"


# ---- data ----------------------------------------------------------------------------------------------------------


def data() -> str:
    """Return the demo's DATA."""
    return "::".join(str(demo.default_examples() / part) for part in demo.TRAINING_DATA)


def prepare(work: Path, threads: int) -> None:
    """Run filter and concepts with the demo's settings, twice for the heads; what is there is not made again.

    A finished folder is taken as it is, whatever the settings are by now: a study is of one state of its data.
    """
    from stillroom.concepts.run import run as run_concepts
    from stillroom.filter.config import FilterConfig
    from stillroom.filter.run import run as run_filter

    plain = work / "concepts_plain"
    if (plain / "manifest.json").exists():
        return
    run_filter(data(), FilterConfig(**demo.FILTER, workers=threads), work / "filter")
    set_validation_apart(work)
    heads = HeadConfig(epochs=demo.FULL.head_epochs)
    config = ConceptsConfig(image_size=96, fit="pad", min_count=demo.FULL.min_count, heads=heads, workers=threads)
    run_concepts(data(), config, work / "concepts", keep=work / "training")
    config = replace(config, heads=replace(heads, resampling="none"))
    run_concepts(data(), config, plain, keep=work / "training", reuse=work / "concepts")


def set_validation_apart(work: Path) -> None:
    """Write W/training, a filter output without validation's pairs, and W/validation, one picture a caption."""
    import pyarrow as pa

    from stillroom.data import open_data
    from stillroom.filter.kept import load_kept

    shards = open_data(data())
    names = [shard.name for shard in shards]
    described = {"validation_share": VALIDATION_SHARE, "validation_draw": VALIDATION_DRAW}
    writer = StageWriter(
        work / "training", stage="filter", config=described, inputs={"data": data()}, seed=VALIDATION_DRAW
    )
    if writer.complete:
        return
    kept = load_kept(work / "filter", names)
    captions: dict[str, bytes] = {}
    counts = {"training": 0, "validation": 0}
    for shard in shards:
        keys, rows = kept.keys(shard.name), []
        for sample in shard.samples():
            if sample.key in keys:
                caption = " ".join(sample.caption.split())
                held = is_held_out(caption, VALIDATION_SHARE, VALIDATION_DRAW)
                counts["validation" if held else "training"] += 1
                rows.append((sample.key, not held))
                if held:
                    captions.setdefault(caption, sample.image)
        keyed, trained = zip(*rows, strict=True)
        writer.write_shard(shard.name, pa.table({"key": list(keyed), "kept": list(trained)}))
    write_retrieval_task(work / "validation", captions)
    writer.finish({**counts, "validation_captions": len(captions)}, shards=names, timings={})


def write_retrieval_task(folder: Path, captions: Mapping[str, bytes]) -> None:
    """Write captions and their pictures in CLIP_benchmark's layout."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "dataset_type.txt").write_text("retrieval")
    (folder / "test" / "nshards.txt").write_text("1")
    with tarfile.open(folder / "test" / "0.tar", "w") as tar:
        for number, (caption, picture) in enumerate(captions.items()):
            for name, content in ((f"{number:06d}.txt", caption.encode()), (f"{number:06d}.png", picture)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


# ---- one run -------------------------------------------------------------------------------------------------------


class Targets:
    """A teacher's labels of chosen kinds, cut to the k most probable, whose probabilities then sum to 1 again."""

    def __init__(self, stored: PseudoLabels, kinds: tuple[str, ...], k: int) -> None:
        self.stored, self.kinds, self.k = stored, kinds, k
        self.sizes = {kind: stored.sizes[kind] for kind in kinds}

    def lookup(self, shards: Sequence[str], keys: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return kind -> ids and probabilities (n, k); the trainer's `labels`."""
        found = self.stored.lookup(shards, keys)
        cut = {kind: (found[kind][0][:, : self.k], found[kind][1][:, : self.k]) for kind in self.kinds}
        return {kind: (ids, probs / probs.sum(axis=1, keepdims=True)) for kind, (ids, probs) in cut.items()}


class FeatureTargets:
    """The teacher's features in the place of object labels, so that they have the same weight and rate of learning."""

    def __init__(self, folder: Path, *, centred: bool) -> None:
        tables = dict(open_stage(folder, FEATURES).tables())
        names = [(shard, key) for shard, table in tables.items() for key in table["key"].to_pylist()]
        self.row = {name: row for row, name in enumerate(names)}
        self.features = np.concatenate([fixed_lists(table, "features") for table in tables.values()])
        self.mean = self.features.mean(axis=0, dtype=np.float64).astype(np.float32) if centred else np.float32(0)
        self.sizes = {"objects": self.features.shape[1]}

    def lookup(self, shards: Sequence[str], keys: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return features (n, D) where ids are expected; the probabilities are not used."""
        rows = [self.row[pair] for pair in zip(shards, keys, strict=True)]
        found = self.features[rows].astype(np.float32) - self.mean
        return {"objects": (found, np.ones(len(rows), np.float32))}


def cosine_losses(logits: dict[str, Any], targets: dict[str, Any], share: float) -> dict[str, Any]:
    """Return 1 - cosine of prediction and feature, in the place of `concept_losses`."""
    return {kind: share * (1 - F.cosine_similarity(logits[kind], targets[kind][0])).mean() for kind in logits}


class FeatureStudent(Student):
    """A student whose heads see what the image tower computes before its projection; texts come as stored features."""

    def forward(self, pictures: Any, texts: Any, *, heads: bool = True) -> Embedded:
        """See `Student.forward`."""
        features = image_trunk(self.model, pictures)
        return Embedded(
            image=F.normalize(image_head(self.model)(features), dim=-1),
            text=F.normalize(text_head(self.model)(texts), dim=-1),
            logits={kind: head(features) for kind, head in self.heads.items()} if heads else {},
            scale=self.model.logit_scale.exp(),
            soft_scale=None,
        )


def train(
    arm: Arm, setting: Setting, work: Path, *, seed: int, samples: int, threads: int
) -> tuple[Any, dict[str, Any]]:
    """Train one student; return open_clip's (model, preprocess, tokenizer) and the last line of its log."""
    from stillroom.model.load import eval_transform
    from stillroom.train.assemble import assemble
    from stillroom.train.loop import train_steps
    from stillroom.train.ranks import open_ranks
    from stillroom.train.recipes import load_recipe
    from stillroom.train.run import Inputs

    given = [f"seed={seed}", f"samples={samples}", f"workers={threads}", "device=cpu"]
    given += [f"cache={json.dumps(str(work / 'embeddings'))}", f"checkpoint_samples={samples}"]
    given += [f"optimizer.warmup_samples={min(demo.FULL.warmup_samples, samples // 8)}"]
    config = load_recipe("student_minilm", given)
    # The plain contrastive loss, so that distillation is all that differs, also from what others publish.
    weight = setting.weight if arm.kinds else 0.0
    config = replace(config, loss=replace(config.loss, contrastive="info_nce", concept_weight=weight))
    inputs = Inputs(data=data(), keep=work / "training", concepts=work / arm.labels)
    with open_ranks("cpu") as ranks, tempfile.TemporaryDirectory() as scratch, ExitStack() as patches:
        ready = assemble(inputs, config, Path(scratch), ranks)
        if arm.kinds:
            distil(ready.trainer, arm, setting, work)
        if arm.features:
            patches.enter_context(mock.patch.object(gradients, "concept_losses", cosine_losses))
        train_steps(ready.trainer, Path(scratch), resume=None, description=f"{arm.title}, seed {seed}")
        log = (Path(scratch) / "metrics.jsonl").read_text().splitlines()
    model = ready.trainer.exported().eval()
    return (model, eval_transform(model), ready.tokenizer), json.loads(log[-1])


def distil(trainer: Any, arm: Arm, setting: Setting, work: Path) -> None:
    """Give a trainer that has not begun the arm's targets, and heads that fit them."""
    labels: Any
    if arm.features:
        labels = FeatureTargets(work / arm.labels / "features", centred=setting.centred)
    else:
        labels = Targets(load_pseudo_labels(work / arm.labels), arm.kinds, arm.k or setting.k)
    model, config = trainer.gradients.student.model, trainer.config
    classifier = projection(model, "image")
    behind = setting.heads_on == "embedding"
    torch.manual_seed(config.seed + 1)  # object heads start alike, whether or not attributes follow
    heads = build_heads(classifier.out_features if behind else classifier.in_features, labels.sizes)
    student = (Student if behind else FeatureStudent)(model, heads, text_features=True)
    trainer.gradients = replace(trainer.gradients, student=student, wrapped=student)
    trainer.optimizer = build_optimizer(student, config.optimizer)
    trainer.preparer = replace(trainer.preparer, labels=labels)


@contextmanager
def everything_once() -> Iterator[None]:
    """Decode each picture, and send each text through the frozen encoder, once in this process, not once a run."""
    from stillroom.evaluate import embed

    read, preprocessed = Sources.pictures, embed._preprocessed
    sources: list[Any] = []
    tensors: dict[str, list[Any]] = {}
    texts: dict[bytes, Any] = {}

    def pictures(self: Sources) -> Any:
        if not sources:  # of the same pairs in every run; what a seed changes is their order
            sources.append(read(self))
        return replace(sources[0], order=self.order)

    def batches(dataset: Any, preprocess: Any, **how: Any) -> Any:
        key = dataset.picture_fingerprint
        if key not in tensors:
            tensors[key] = list(preprocessed(dataset, preprocess, **how))
        return tensors[key]

    def encode_text(model: Any, tokens: Any) -> Any:
        key = tokens.numpy().tobytes()
        if key not in texts:
            texts[key] = text_trunk(model, tokens)
        return text_head(model)(texts[key])

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Sources, "pictures", pictures))
        patches.enter_context(mock.patch.object(embed, "_preprocessed", batches))
        patches.enter_context(mock.patch.object(embed, "encode_text", encode_text))
        yield


def evaluate(loaded: Any, tasks: Sequence[str], threads: int) -> dict[str, float]:
    """Score a model; return values by "task/metric": accuracy, and recall at 10 both ways, as the demo does."""
    from stillroom.evaluate.config import EvaluateConfig
    from stillroom.evaluate.run import evaluate_model
    from stillroom.evaluate.tasks import find_tasks

    config = EvaluateConfig(data_root=str(ROOT), batch_size=256, workers=threads, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        results = evaluate_model(loaded, "worth", find_tasks(tuple(tasks)), config, Path(folder) / "scores")
    return {
        f"{result['dataset']}/{metric}": result["metrics"][metric]
        for result in results
        for metric in demo.METRICS
        if metric in result["metrics"]
    }
