"""The command line: a mistake is one line on standard error and exit status 2; nothing heavy is imported early."""

import json
import subprocess
import sys
import textwrap

import pytest

from stillroom import __version__, cli
from stillroom.data import check
from stillroom.errors import ArtifactError, MissingDependencyError

COMMANDS = ["check", "filter", "concepts", "train", "evaluate", "probe", "tasks", "compare", "demo"]
HEAVY = [
    "torch",
    "spacy",
    "transformers",
    "open_clip",
    "timm",
    "cv2",
    "rapidocr",
    "matplotlib",
    "numpy",
    "pyarrow",
    "PIL",
]


@pytest.fixture
def stillroom(capsys):
    """A function that runs the command line and returns exit status, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def test_check_prints_a_report(stillroom, shapes_tar):
    status, out, err = stillroom("check", shapes_tar, "--workers", "1")
    assert (status, err) == (0, "")
    assert out.startswith("12 pairs in 1 shards\n")
    status, out, _ = stillroom("check", shapes_tar, "--json", "--no-decode", "--set", "data.max_per_shard=5")
    assert status == 0
    assert json.loads(out)["samples"] == 5


def test_check_takes_the_options_of_the_reader_from_a_file_and_set(stillroom, tmp_path, encode):
    (tmp_path / "a.png").write_bytes(encode())
    (tmp_path / "t.csv").write_text("picture,text\na.png,x\n")
    (tmp_path / "c.toml").write_text('[data]\nimage_column = "picture"\n')
    status, _, err = stillroom("check", tmp_path / "t.csv")
    assert status == 2
    assert "it has 'picture', 'text': use --set data.image_column=NAME" in err
    arguments = ["check", tmp_path / "t.csv", "--config", tmp_path / "c.toml", "--set", "data.caption_column=text"]
    assert stillroom(*arguments)[:2][0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "absent"], "nothing at 'absent'"),
        (["check", ""], "empty part"),
        (["check", "memory://absent.tar"], "nothing at"),
        (["check"], "Missing argument 'DATA'"),
        (["check", "TAR", "more"], "unexpected extra argument"),
        (["chek", "TAR"], "No such command 'chek'. Did you mean 'check'?"),
        (["check", "TAR", "--worker", "1"], "No such option: --worker"),
        (["check", "TAR", "--workers", "x"], "--workers"),
        (["check", "TAR", "--workers", "-1"], "--workers"),
        (["check", "TAR", "--config"], "--config"),
        (["check", "TAR", "--config", "absent.toml"], "no config file absent.toml"),
        (["check", "TAR", "--config", "TAR"], "is not valid TOML"),
        (
            ["check", "TAR", "--set", "data.block_row=1"],
            "unknown key 'data.block_row'; did you mean 'data.block_rows'?",
        ),
        (["check", "TAR", "--set", "nonsense=1"], "unknown key 'nonsense'; allowed: data"),
        (["check", "TAR", "--set", "nonsense"], "--set nonsense: write key=value"),
        (["check", "TAR", "--set", "data.block_rows=none"], "must be of type int"),
        (["check", "TAR", "--set", "data.block_rows=0"], "block_rows is 0; it must be at least 1"),
        (["check", "TAR", "--set", "data.separator=tab"], "separator"),
        (["filter", "TAR"], "Missing option '--out'"),
        (["compare"], "Missing argument"),
        (["--nonsense"], "No such option: --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(stillroom, shapes_tar, arguments, said):
    status, out, err = stillroom(*(shapes_tar if argument == "TAR" else argument for argument in arguments))
    assert status == 2
    assert out == ""
    assert err.startswith("stillroom: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "x.tar"),
        OSError("over\ntwo lines"),
        ArtifactError("--out x belongs to another run"),
        MissingDependencyError("rapidocr", "ocr", "text spotting"),
    ],
)
def test_errors_of_a_stage_are_one_line(stillroom, monkeypatch, error):
    monkeypatch.setattr(check, "run", lambda *a, **k: (_ for _ in ()).throw(error))
    status, out, err = stillroom("check", "x")
    assert (status, out) == (2, "")
    assert err == f"stillroom: {' '.join(str(error).split())}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "x"], "stopped"),
        (["train", "finetune", "x", "--out", "R"], "with --resume the same command goes on from the last checkpoint"),
        (["filter", "x", "--out", "F"], "stopped; the same command goes on from here"),
    ],
)
def test_ctrl_c_says_how_to_go_on(stillroom, monkeypatch, arguments, said):
    from stillroom.filter import run as filter_run
    from stillroom.train import run as train_run

    def stop(*positional, **named):
        raise KeyboardInterrupt

    for module in (check, filter_run, train_run):
        monkeypatch.setattr(module, "run", stop)
    status, out, err = stillroom(*arguments)
    assert (status, out) == (130, "")
    assert err.startswith("stillroom: stopped")
    assert err.endswith(f"{said}\n")


def test_train_names_all_recipes_and_wants_a_folder(stillroom):
    from stillroom.train.recipes import recipe_names

    assert ", ".join(recipe_names()) == cli.RECIPES
    assert stillroom("train", "tiny/student_minilm", "x") == (2, "", "stillroom: give --out, a folder for the model\n")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(check, "run", lambda *a, **k: {}["bug"])
    with pytest.raises(KeyError):
        cli.main(["check", "x"])


def test_what_a_terminal_cannot_show_is_spelled_out(stillroom, monkeypatch):
    monkeypatch.setattr(check, "run", lambda *a, **k: {"data": "\udcff"})
    status, out, _ = stillroom("check", "x", "--json")
    assert (status, json.loads(out)) == (0, {"data": "\udcff"})


def test_help_and_version(stillroom):
    assert stillroom("--version") == (0, f"{__version__}\n", "")
    status, out, _ = stillroom("--help")
    assert status == 0
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert listed == COMMANDS
    status, out, err = stillroom()
    assert (status, out) == (2, "")
    assert err.startswith("Usage: stillroom")


def test_nothing_heavy_is_imported_before_it_is_used():
    script = textwrap.dedent(
        f"""
        import sys
        import stillroom
        from stillroom.cli import main
        for arguments in (["--help"], ["--version"], *([command, "--help"] for command in {COMMANDS})):
            try:
                main(arguments)
            except SystemExit as ended:
                assert ended.code == 0, arguments
        print("HEAVY", sorted(set({HEAVY}) & set(sys.modules)))
        """
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "HEAVY []"
    for command in COMMANDS:
        assert f"Usage: stillroom {command}" in result.stdout


def test_a_reader_that_closes_early_is_no_error(shapes_tar):
    script = "import sys; from stillroom.cli import main; sys.stdin.read(); main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "check", str(shapes_tar)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
