import json
import os
import shutil
import signal
import subprocess
import sys
import time

import hub as local_hub
import numpy as np
import pytest
from hub import TOKEN, contents, surroundings

from workbench import models, student

RESOLVE = """
import json, sys
from workbench import models
from workbench.errors import ModelError
try:
    print(json.dumps({"path": str(models.resolve(*sys.argv[1:]).path)}))
except ModelError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def cls_model(tiny_model, tmp_path_factory):
    """A model with CLS pooling, for which mean pooling gives other vectors."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("hub") / "cls")
    (folder / "README.md").unlink(missing_ok=True)  # no loader reads it
    config = folder / "1_Pooling" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pooling_mode": "cls"}))
    return folder


@pytest.fixture
def hub():
    with local_hub.serve() as server:
        yield server


@pytest.fixture
def ask(hub, tmp_path):
    """Run code in a process whose hub is the local server; return its last lines, or JSON."""

    def run(code, *arguments, lines=0, **environment):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=os.environ | surroundings(hub, tmp_path) | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert TOKEN not in done.stdout + done.stderr
        assert done.returncode == 0, done.stderr[-3000:]
        printed = done.stdout.splitlines()
        return printed[-lines:] if lines else json.loads(printed[-1])

    return run


def same_files(one, two) -> bool:
    return contents(one) == contents(two)


def test_by_name_and_then_without_a_connection(hub, ask, cls_model, tiny_model):
    hub.add("me/cls", cls_model)
    answer = ask(RESOLVE, "me/cls")
    assert same_files(answer["path"], cls_model)
    asked = len(hub.requests)
    hub.add("me/cls", tiny_model)  # a newer commit does not replace a cached one
    assert ask(RESOLVE, "me/cls") == answer
    assert ask(RESOLVE, "me/cls", HF_HUB_OFFLINE="1") == answer
    assert len(hub.requests) == asked  # what is known to be whole needs no hub
    vectors = models.load_model(answer["path"], device="cpu").encode(["bread in the oven"])
    reference = models.load_model(cls_model, device="cpu").encode(["bread in the oven"])
    np.testing.assert_allclose(vectors, reference, atol=1e-6)


def test_missing_and_gated(hub, ask, cls_model):
    hub.add("me/gated", cls_model, gated=True)
    for name, token in (("me/missing", ""), ("me/gated", "hf_another")):
        error = ask(RESOLVE, name, HF_TOKEN=token)["error"]
        assert "HF_TOKEN" in error and "hf_another" not in error
    assert same_files(ask(RESOLVE, "me/gated", HF_TOKEN=TOKEN)["path"], cls_model)


def test_a_cut_download_is_never_taken_for_whole(hub, ask, cls_model):
    hub.add("me/cls", cls_model)
    hub.cut["model.safetensors"] = 20
    assert "disconnected" in ask(RESOLVE, "me/cls")["error"]
    assert "Incomplete" in ask(RESOLVE, "me/cls", HF_HUB_OFFLINE="1")["error"]
    hub.cut.clear()
    before = len(hub.requests)
    assert same_files(ask(RESOLVE, "me/cls")["path"], cls_model)
    fetched = [line for line in hub.requests[before:] if "GET" in line and "/resolve/" in line]
    assert len(fetched) < len(contents(cls_model))  # whole files were kept


def test_a_killed_download_is_never_taken_for_whole(hub, ask, cls_model, tmp_path):
    hub.add("me/cls", cls_model)
    hub.cut["model.safetensors"] = 20
    process = subprocess.Popen(
        [sys.executable, "-c", RESOLVE, "me/cls"],
        env=os.environ | surroundings(hub, tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while hub.cut["model.safetensors"] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "Incomplete" in ask(RESOLVE, "me/cls", HF_HUB_OFFLINE="1")["error"]
    hub.cut.clear()
    assert same_files(ask(RESOLVE, "me/cls")["path"], cls_model)


def test_single_files_of_other_tools_are_completed(hub, ask, cls_model, tmp_path):
    """Without modules.json, the mean would be taken in the place of the CLS token."""
    hub.add("me/cls", cls_model)
    ask(RESOLVE, "me/cls")
    shutil.rmtree(next(tmp_path.glob("hf/hub/models--*/trees")))
    for path in ("modules.json", "1_Pooling/config.json"):
        next(tmp_path.glob(f"hf/hub/models--*/snapshots/*/{path}")).unlink()
    assert same_files(ask(RESOLVE, "me/cls")["path"], cls_model)


def test_the_pooling_of_a_plain_transformers_model_is_a_guess_with_a_warning(
    hub, ask, tiny_model, tmp_path
):
    plain = shutil.copytree(tiny_model, tmp_path / "plain")
    for path in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        (plain / path).unlink(missing_ok=True)
    hub.add("me/plain", plain)
    path = ask(RESOLVE, "me/plain")["path"]
    assert ask(RESOLVE, "me/plain", HF_HUB_OFFLINE="1")["path"] == path
    with pytest.warns(UserWarning, match="no modules.json"):
        models.load_model(path, device="cpu")


ROWS = """
import json, sys
from workbench import data
from workbench.errors import DataError
for name in sys.argv[1:]:
    try:
        print([text.text for text in data.read_texts(f"hub:{name}", column="text", limit=3)])
    except DataError as error:
        print(error)
"""


def test_a_data_set_by_name(hub, ask):
    rows = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(1000)).encode()
    hub.add("me/texts", {"train.jsonl": rows}, kind="datasets")
    hub.add("me/gated", {"train.jsonl": rows}, kind="datasets", gated=True)
    texts, missing, gated = ask(ROWS, "me/texts", "me/none", "me/gated", lines=3)
    assert texts == str(["text 0", "text 1", "text 2"])
    assert "me/none cannot be read" in missing and "HF_TOKEN" in gated
    assert ask(ROWS, "me/gated", lines=1, HF_TOKEN=TOKEN) == [texts]


PUSH = """
import os, sys
from workbench.errors import ModelError
from workbench.extras import publish
try:
    publish.push(sys.argv[1], "me/small")
except ModelError as error:
    print(error)
os.environ["HF_TOKEN"] = sys.argv[2]
print(*publish.push(sys.argv[1], "me/small")["file"])
"""


def test_push_sends_a_published_folder(hub, ask, tiny_model, tmp_path):
    import test_card

    from workbench.extras import publish

    model, folder = student.build(tiny_model, 48, max_length=40, device="cpu"), tmp_path / "small"
    publish.save_student(model, folder, card=test_card.written())
    refused, sent = ask(PUSH, folder, TOKEN, lines=2)
    assert "me/small was not sent" in refused
    repo = hub.repos["models", "me/small"]
    files = repo.commits[repo.names["main"]]
    assert sorted(files) == sorted(sent.split())
    assert all(content == (folder / path).read_bytes() for path, content in files.items())
