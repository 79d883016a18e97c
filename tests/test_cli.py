"""The command line as a whole: errors, options, imports."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.conftest import assert_one_line_error, rows_of, run_histo


@pytest.mark.parametrize("verb", ["interpret", "export"])
def test_what_is_no_run_is_refused(tmp_path, verb):
    assert_one_line_error(run_histo(verb, tmp_path / "none"), "no run folder")
    (tmp_path / "other").mkdir()
    assert_one_line_error(run_histo(verb, tmp_path / "other"), "is not a run folder")


def test_what_is_not_there_is_one_line(tiny_run, dataset, tmp_path):
    bundle, out = tiny_run / "export", ("--out", tmp_path / "p.csv")
    test = dataset / "test"
    for words, said in (
        (("predict", bundle, tmp_path / "none", *out), "no image, folder or CSV"),
        (("predict", tmp_path / "none", test, *out), "no bundle"),
        (("export", tiny_run, "--out", tiny_run), "exists and is not empty"),
        (("merge", tmp_path), "holds no parts, such as"),
    ):
        assert_one_line_error(run_histo(*words), said)
    result = run_histo("predict", bundle / "learner.pkl", test, "--trust-pickle", "--tta", *out)
    assert result.exit_code == 1
    assert "needs a bundle, not a pickle (leave --tta out)" in result.stderr
    (tmp_path / "config.json").write_text("{}")
    assert_one_line_error(run_histo("export", tmp_path), "has no model: no epoch of it ended")
    assert_one_line_error(run_histo("interpret", tmp_path), "has no predictions")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_on_a_cpu_only_train_export_and_demo_need_torch(tiny_run, dataset, tmp_path):
    """The others never load torch or fastai."""
    code = """
import sys
from histo.cli import main
try:
    main()
finally:
    assert not {"torch", "fastai"} & sys.modules.keys()
"""
    lines = [
        ["check", dataset],
        ["interpret", tiny_run, "--out", tmp_path / "report"],
        ["predict", tiny_run / "export", dataset / "test", "--tta", "--device", "cpu"],
    ]
    for words in lines:
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(rows_of(tmp_path / "predictions.csv")) == 24


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
@pytest.mark.parametrize("module", ["typer", "histo.commands.check"])
def test_ctrl_c_while_the_program_is_imported_prints_no_traceback(tmp_path, module):
    code = f"""
import os, signal, sys
class CtrlC:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
from histo.__main__ import main
main()
"""
    command = [sys.executable, "-c", code, "check", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode in (130, -signal.SIGINT), done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_is_status_2_and_help_needs_no_torch():
    assert run_histo("train", "x", "--epochs", "many").exit_code == 2
    code = "import sys, histo.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
