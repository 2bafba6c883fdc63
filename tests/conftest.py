"""Small things to test with: a random two-layer model, and a teacher that computes vectors from text."""

import hashlib
import json
import os
import string
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROJECT = Path(__file__).parent.parent
# Kernels and other processes find this checkout, and what the notebooks share, wherever they run.
_FOLDERS = [PROJECT, PROJECT / "notebooks", PROJECT / "examples", PROJECT / "recipes"]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, _FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])]
)

from workbench.data import Role, Text  # noqa: E402
from workbench.teachers import Teacher  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Save a random BERT of 2 layers and 32 dimensions as a sentence-transformers folder."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "other", seed=1, width=48)


def make_tiny_model(folder: Path, *, seed: int, width: int = 32) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    raw = folder.with_suffix(".raw")
    raw.mkdir(parents=True)
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{c}" for c in letters),
        *WORDS,
    ]
    (raw / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(dict.fromkeys(vocabulary)), hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, initializer_range=0.05,
    )  # fmt: skip
    BertModel(config).save_pretrained(raw)
    BertTokenizerFast(vocab=str(raw / "vocab.txt"), do_lower_case=True).save_pretrained(raw)
    transformer = Transformer(str(raw))
    transformer.max_seq_length = 48
    model = SentenceTransformer(
        modules=[transformer, Pooling(width, pooling_mode="mean"), Normalize()], device="cpu"
    )
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


WORDS = (
    "the a of to in and for with on from river stone bread oven water light wheel garden seed rain train night "
    "coffee tea dog cat money bank house door paint wood lens photo run swim lap pool sleep dream cloud wind snow"
).split()


def sentences(count: int, seed: int = 0) -> list[Text]:
    """Make different sentences of 3 to 20 known words, roles in turn."""
    rng = np.random.default_rng(seed)
    texts = []
    for i in range(count):
        words = rng.choice(WORDS, size=rng.integers(3, 21))
        texts.append(Text(f"{' '.join(words)} {seed} {i}", Role.QUERY if i % 2 else Role.DOCUMENT))
    return texts


@pytest.fixture(scope="session")
def lesson(other_tiny_model):
    """Training texts and held-out texts with targets of a random 48-wide teacher."""
    from workbench import models

    teacher = models.load_model(other_tiny_model, device="cpu")
    train, held_out = sentences(240, seed=3), sentences(60, seed=4)
    targets, wanted = (teacher.encode([t.text for t in texts]) for texts in (train, held_out))
    return train, targets, held_out, wanted


class HashTeacher(Teacher):
    """A teacher whose vectors are a function of prompt, role and text; it counts what it encodes."""

    probes = ()

    def __init__(
        self, dimension: int = 16, name: str = "hash", prompts: dict | None = None, **identity
    ) -> None:
        super().__init__(name, dimension, normalize=True, prompts=prompts, **identity)
        self.encoded: list[str] = []

    def encode(self, texts, role, *, stop=None):
        self.encoded += texts
        return np.stack([self.vector(text, role) for text in texts])

    def vector(self, text, role):
        seed = hashlib.sha256(
            f"{self.identity}|{self.prompts[role]}|{role}|{text}".encode()
        ).digest()[:8]
        vector = np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(
            self.dimension
        )
        return (vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture
def hash_teacher() -> HashTeacher:
    return HashTeacher()


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def task_folders(tmp_path_factory):
    """Make a folder of each kind of benchmark task."""
    root = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)

    def say(topic: int) -> str:
        return (
            " ".join(rng.choice(WORDS[topic * 4 : topic * 4 + 6], size=6)) + f" {rng.integers(999)}"
        )

    labeled = [{"text": say(i % 3), "label": f"topic {i % 3}"} for i in range(90)]
    lines(root / "topics" / "train.jsonl", labeled[:60])
    lines(root / "topics" / "test.jsonl", labeled[60:])
    lines(root / "groups" / "test.jsonl", labeled)
    pairs = [
        {"sentence1": say(i % 3), "sentence2": say(i % 2), "score": float(i % 3 == i % 2)}
        for i in range(40)
    ]
    lines(root / "same" / "test.jsonl", [row | {"score": int(row["score"])} for row in pairs])
    lines(
        root / "alike" / "test.jsonl",
        [row | {"score": row["score"] * 3 + i % 2} for i, row in enumerate(pairs)],
    )
    documents = [{"_id": f"d{i}", "text": say(i % 3)} for i in range(30)]
    queries = [
        {"_id": f"q{i}", "text": " ".join(documents[i]["text"].split()[:4])} for i in range(12)
    ]
    lines(root / "search" / "corpus.jsonl", documents)
    lines(root / "search" / "queries.jsonl", queries)
    qrels = "".join(f"q{i}\td{i}\t1\n" for i in range(12))
    (root / "search" / "qrels").mkdir()
    (root / "search" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels)
    return root


def shared_folder(tmp_path_factory) -> Path:
    """Return a folder that all processes of a test run share."""
    shared = tmp_path_factory.getbasetemp()
    return shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared


def make_home(folder: Path, shared: Path) -> Path:
    """Make a WORKBENCH_HOME that has nothing but targets and unpacked models, which the notebooks of a run share."""
    folder.mkdir()
    for name in ("cache", "models"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(shared / name, target_is_directory=True)
    return folder


@pytest.fixture
def notebook_home(tmp_path, tmp_path_factory):
    return make_home(tmp_path / "home", shared_folder(tmp_path_factory) / "real")
