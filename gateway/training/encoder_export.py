"""Make the trained encoder small and safe to load: fewer words, eight-bit weights, one digest, no pickle.

Vocabulary: what the texts use and the commonest words. Word vectors: int8, one scale a word. Matrices: int8, one scale a column, seven
bits used, so that processors without VNNI instructions cannot overflow.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

WEIGHTS = Path(__file__).parent.parent / "providers" / "local" / "weights"
MODEL, TOKENIZER = "encoder.onnx", "encoder.tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
OPSET = 17


def smaller_vocabulary(table: dict[str, Any], texts: Iterable[str], size: int) -> tuple[dict[str, Any], list[int]]:
    """Return the tokenizer with `size` entries and the old numbers of those kept: single characters, what the texts use, common words.

    Old numbers are in order of frequency. Words that lose their entry are read in pieces, as rare words always were.
    """
    old: dict[str, int] = table["model"]["vocab"]
    table = dict(table, padding=None, truncation=None)
    tokenizer = Tokenizer.from_str(json.dumps(table))
    used: Counter[int] = Counter()
    for code in tokenizer.encode_batch([text[:2000] for text in texts], add_special_tokens=False):
        used.update(code.ids)
    single = [n for token, n in old.items() if len(token.removeprefix("##")) == 1 and ord(token.removeprefix("##")) < 0x600]
    by_use = [n for n, count in used.most_common() if count >= 2]
    words = sorted(n for token, n in old.items() if token.removeprefix("##").isascii() and not token.startswith("["))
    order = list(dict.fromkeys([*(old[token] for token in SPECIAL), *single, *by_use, *words]))[:size]
    kept = [old["[PAD]"], *sorted(n for n in order if n != old["[PAD]"])]
    names = {number: token for token, number in old.items()}
    vocabulary = {names[number]: new for new, number in enumerate(kept)}
    table["model"] = dict(table["model"], vocab=vocabulary)
    added = [entry for entry in table["added_tokens"] if entry["content"] in vocabulary]
    table["added_tokens"] = [dict(entry, id=vocabulary[entry["content"]]) for entry in added]
    for name, entry in table["post_processor"]["special_tokens"].items():
        entry["ids"] = [vocabulary[name]]
    return table, kept


def write(network: Any, table: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write the quantised network and its tokenizer. Returns the digests of both files."""
    folder.mkdir(parents=True, exist_ok=True)
    full = folder / "encoder.full.onnx"
    network.eval()
    torch.onnx.export(
        network, (torch.ones((2, 7), dtype=torch.int64),), str(full), input_names=["ids"], output_names=["logits"], opset_version=OPSET,
        dynamic_axes={"ids": {0: "texts", 1: "tokens"}, "logits": {0: "texts"}}, dynamo=False,
    )
    quantize_dynamic(
        str(full), str(folder / MODEL), per_channel=True, reduce_range=True, op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
    )
    full.unlink()
    (folder / TOKENIZER).write_text(json.dumps(table, ensure_ascii=True, separators=(",", ":")), encoding="utf-8")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (MODEL, TOKENIZER)}
