"""Files from elsewhere run no code, and the Lab that the command opens is closed to others."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.lab import answers, free_port
from workbench import _checkpoints, _shards, data, models, student
from workbench.cache import TargetCache
from workbench.errors import DataError, ModelError, WorkbenchError


@pytest.fixture
def trap(tmp_path):
    """Return code and a pickle that would leave a mark, which is not there in the end."""
    mark = tmp_path / "code-was-run"

    class Pickled:
        def __reduce__(self):
            return (os.mkdir, (str(mark),))

    yield f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n", pickle.dumps(Pickled())
    assert not mark.exists()


@pytest.fixture
def saved(tiny_model, tmp_path):
    folder = tmp_path / "student"
    student.save(student.build(tiny_model, 48, max_length=24, device="cpu"), folder)
    return folder


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_module_of_the_models_own_is_not_imported(saved, trap):
    (saved / "modeling_evil.py").write_text(trap[0])
    edit(saved / "modules.json", lambda modules: modules[1].update(type="modeling_evil.Evil"))
    with pytest.raises(ModelError, match="executes third-party code"):
        models.load_model(saved)


def test_an_architecture_of_the_models_own_is_not_imported(saved, trap):
    for name in ("configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (saved / name).write_text(trap[0])
    mapped = {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"}
    edit(saved / "config.json", lambda config: config.update(model_type="evil", auto_map=mapped))
    mapped = {"AutoTokenizer": [None, "tokenization_evil.Evil"]}
    edit(saved / "tokenizer_config.json", lambda config: config.update(auto_map=mapped))
    with pytest.raises(ModelError):
        models.load_model(saved)


def test_an_activation_is_no_way_to_call_a_function(saved, trap, monkeypatch):
    (saved / "evil.py").write_text(trap[0])
    monkeypatch.syspath_prepend(saved)
    evil = {"activation_function": "evil.Evil"}
    edit(saved / "2_Dense" / "config.json", lambda config: config.update(evil))
    models.load_model(saved)  # sentence-transformers warns, and takes another


@pytest.mark.parametrize("where", ["", "2_Dense"])
def test_pickled_weights_are_not_loaded(saved, trap, where):
    (saved / where / "model.safetensors").unlink()
    (saved / where / "pytorch_model.bin").write_bytes(trap[1])
    with pytest.raises(ModelError):
        models.load_model(saved)


def test_pickles_in_the_place_of_other_files_are_not_loaded(tmp_path, trap, hash_teacher):
    cache = TargetCache(tmp_path / "cache", hash_teacher)
    cache.check_writable()
    texts = [tmp_path / "texts.parquet", tmp_path / "texts.jsonl"]
    shards = [cache.folder / name for name in ("0123.safetensors", "identity.json")]
    state = [tmp_path / "step-1" / name for name in ("student.safetensors", "state.json")]
    state[0].parent.mkdir()
    for path in texts + shards + state:
        path.write_bytes(trap[1])
    with pytest.warns(UserWarning):
        assert len(TargetCache(tmp_path / "cache", hash_teacher)) == 0
    with pytest.raises(_shards.DamagedShard):
        (tmp_path / "x.safetensors").write_bytes(trap[1])
        _shards.Shard(tmp_path / "x.safetensors")
    for path in texts:
        with pytest.raises(DataError):
            data.read_texts(path)
    with pytest.raises((WorkbenchError, ValueError)):
        _checkpoints.read_state(state[0].parent)


def test_a_data_set_with_a_script_does_not_run_it(tmp_path, trap):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(trap[0])
    with pytest.raises(DataError):
        list(data.stream_texts(f"hub:{tmp_path / 'data'}"))


def test_the_lab_listens_on_this_machine_only_and_asks_for_its_token(tmp_path):
    port, log, environment = free_port(), tmp_path / "log", dict(os.environ)
    environment.pop("JUPYTER_TOKEN", None)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "WORKBENCH_HOME"):
        environment[name] = str(tmp_path / name)
    command = [sys.executable, "-m", "workbench", "lab", "--no-browser", "--port", str(port)]
    with log.open("w") as output:
        lab = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        deadline, token = time.monotonic() + 120, None
        while token is None and time.monotonic() < deadline and lab.poll() is None:
            time.sleep(0.2)
            token = re.search(r"token=([0-9a-f]{32,})", log.read_text())
        assert token, log.read_text()
        # It names its token before it listens.
        assert answers(f"http://127.0.0.1:{port}/api/status?token={token.group(1)}", lab)
        address = f"http://127.0.0.1:{port}/api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address, timeout=30)
        assert urllib.request.urlopen(f"{address}?token={token.group(1)}", timeout=30).status == 200
        if (table := Path("/proc/net/tcp")).exists():
            rows = [line.split() for line in table.read_text().splitlines()]
            listening = [row[1] for row in rows if row[3] == "0A"]
            assert [a for a in listening if a.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    finally:
        lab.send_signal(signal.SIGTERM)
        lab.wait(30)
