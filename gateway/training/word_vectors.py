"""Reduce an encoder's input embeddings to the small table of word meanings that training starts from.

`python -m gateway.training.word_vectors model.safetensors tokenizer.json` writes `word_vectors.npz`: the whole words of the
vocabulary, 64 principal components each, int8. Run once; the table is committed, so that training needs no encoder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TABLE = Path(__file__).parent / "word_vectors.npz"
DIMENSIONS = 64
TENSOR = "embeddings.word_embeddings.weight"


def embeddings(path: Path) -> NDArray[np.float32]:
    """Return the float32 input embeddings of a safetensors file (8-byte header length, JSON header, raw tensors)."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])[TENSOR]
    begin, end = (8 + size + offset for offset in entry["data_offsets"])
    return np.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"])


def reduced(table: NDArray[np.float32]) -> NDArray[np.int8]:
    """Return unit vectors of the leading principal components, the common direction removed, scaled to int8."""
    centred = table - table.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    best = np.argsort(values)[::-1][:DIMENSIONS]
    kept = centred @ vectors[:, best]
    kept /= np.linalg.norm(kept, axis=1, keepdims=True) + 1e-9
    whole: NDArray[np.int8] = np.clip(np.rint(kept * 254), -127, 127).astype(np.int8)
    return whole


def load(path: Path = TABLE) -> dict[str, NDArray[np.int8]]:
    """Return word -> vector."""
    with np.load(path, allow_pickle=False) as table:
        return dict(zip(bytes(table["words"]).decode("utf-8").split("\n"), table["vectors"], strict=True))


def main() -> None:
    """Read an encoder, write the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("tokenizer", type=Path)
    chosen = options.parse_args()
    vocabulary: dict[str, int] = json.loads(chosen.tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isalpha() and word.isascii() and len(word) > 1)
    vectors = reduced(embeddings(chosen.model)[[vocabulary[word] for word in words]])
    np.savez(TABLE, words=np.frombuffer("\n".join(words).encode(), dtype=np.uint8), vectors=vectors)
    print(len(words), "words")


if __name__ == "__main__":
    main()
