"""Rules of the layout that no linter knows: who may import whom, names, sizes, and how many options there are."""

import ast
from collections import Counter
from pathlib import Path

import pytest
import typer

import stillroom
from stillroom.cli import app

ROOT = Path(stillroom.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
TESTS = Path(__file__).parent
# A stage may import shared modules and earlier stages, never a later one; what is not named here is shared.
ORDER = {
    "filter": 1,
    "concepts": 2,
    "train": 3,
    "evaluate": 4,
    "probe": 5,
    "report": 6,
    "demo": 6,
    "cli": 7,
    "__main__": 8,
}
PUBLIC = {
    *("load_model", "caption_graph", "caption_complexity", "caption_actions", "text_overlap"),
    *("info_nce", "hard_negative_nce", "self_distillation", "transport_distillation", "concept_distillation"),
    *("top_k_accuracy", "mean_per_class_recall", "mean_average_precision", "hit_at_k", "retrieval_recall", "roc_auc"),
    *("winoground_scores", "vqa_accuracy", "fit_prompt_probe"),
}
MAX_LINES = 350
MAX_OPTIONS = 8


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(name):
    parts = name.split(".")
    return ORDER.get(parts[1], 0) if len(parts) > 1 else 0


def imports(path):
    """Yield the dotted names a file imports anywhere, also within functions and for type checking only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_modules_are_found():
    names = {module_name(path) for path in MODULES}
    assert {"stillroom", "stillroom.cli", "stillroom.data.tars", "stillroom.train.losses.contrastive"} <= names
    assert set(ORDER) - {"report", "demo"} <= {name.split(".")[1] for name in names if "." in name}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_stage_imports_a_later_one(path):
    name = module_name(path)
    later = [target for target in imports(path) if target.startswith("stillroom.") and rank(target) > rank(name)]
    assert not later


def test_no_module_is_named_like_a_public_function():
    assert not PUBLIC & {path.stem for path in MODULES}
    assert not PUBLIC & {path.parent.name for path in MODULES}


def test_files_stay_short():
    too_long = {path: lines for path in MODULES if (lines := len(path.read_text().splitlines())) > MAX_LINES}
    assert not too_long


def test_commands_have_few_options():
    """Configs are set by `--config` and `--set`; an option of its own is for what every run needs."""
    commands = typer.main.get_command(app).commands
    options = {
        name: [parameter.name for parameter in command.params if parameter.param_type_name == "option"]
        for name, command in commands.items()
    }
    assert len(commands) == 9
    assert max(len(names) for names in options.values()) <= MAX_OPTIONS, options
    assert sum(len(names) for names in options.values()) <= 39, options


def test_every_stage_has_a_config_and_a_run():
    for stage in ("filter", "concepts", "train", "evaluate", "probe"):
        for part in ("config.py", "run.py"):
            assert (ROOT / stage / part).exists(), f"{stage}/{part}"


def test_test_files_have_names_of_their_own():
    counts = Counter(path.name for path in TESTS.rglob("*.py") if path.name != "conftest.py")
    assert not [name for name, count in counts.items() if count > 1]
