"""What `import workbench as wb` gives: few names, loaded lazily, each with an example that runs."""

import doctest
import inspect
import subprocess
import sys

import pytest

import workbench as wb


def test_importing_it_is_quick_and_brings_no_torch():
    code = (
        "import sys; import workbench as wb; wb.__all__; wb.Text('a'); wb.read_texts(['a', 'b'])\n"
        "heavy = 'torch transformers sentence_transformers plotly datasets umap'.split()\n"
        "print(sorted(set(heavy) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="has no 'distil'; it has Text"):
        wb.distil  # noqa: B018
    assert 10 <= len(wb.__all__) <= 16 and set(wb.__all__) <= set(dir(wb))


@pytest.mark.parametrize("name", wb.__all__)
def test_the_example_runs_by_itself(
    name, tmp_path, tiny_model, other_tiny_model, monkeypatch, capsys
):
    """Tiny models take the place of the packaged ones."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    text = inspect.getdoc(getattr(wb, name))
    tiny = {"all-MiniLM-L6-v2": tiny_model, "all-mpnet-base-v2": other_tiny_model}
    for real, stand_in in (tiny | {"384": 32, "768": 48}).items():
        text = text.replace(real, str(stand_in))
    examples = doctest.DocTestParser().get_examples(text)
    assert examples, f"{name} has no example"
    test = doctest.DocTest(examples, {"wb": wb}, name, None, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0, capsys.readouterr().out
