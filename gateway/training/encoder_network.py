"""The small encoder as it is trained and exported: a six-layer BERT body, two poolings, one linear layer of heads.

Needs PyTorch, which the serving process does not. Reads the published weights from a safetensors file; nothing is unpickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WIDTH, HEADS, INNER, LAYERS = 384, 12, 1536, 6
MOST_TOKENS = 96
_PLACES = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value", "out": "attention.output.dense",
    "norm_attended": "attention.output.LayerNorm", "up": "intermediate.dense", "down": "output.dense", "norm_out": "output.LayerNorm",
}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the float32 tensors of a safetensors file (8-byte header length, JSON header, raw tensors)."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    found: dict[str, torch.Tensor] = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            found[name] = torch.from_numpy(np.frombuffer(raw[begin:end], dtype="<f4").reshape(entry["shape"]).copy())
    return found


class Layer(nn.Module):
    """One transformer layer, normalised after each half."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm_attended, self.norm_out = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)
        self.drop = nn.Dropout(0.1)

    def forward(self, states: Any, bias: Any) -> Any:
        count, size, _ = states.shape

        def by_head(values: Any) -> Any:
            return values.view(count, size, HEADS, WIDTH // HEADS).transpose(1, 2)

        query, key, value = by_head(self.query(states)), by_head(self.key(states)), by_head(self.value(states))
        attended = torch.softmax(query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + bias, -1) @ value
        states = self.norm_attended(states + self.drop(self.out(attended.transpose(1, 2).reshape(count, size, WIDTH))))
        return self.norm_out(states + self.drop(self.down(nn.functional.gelu(self.up(states)))))


class Encoder(nn.Module):
    """Token numbers [texts, tokens], 0 where a text has ended -> logits [texts, heads]."""

    def __init__(self, published: dict[str, torch.Tensor], kept: list[int], heads: int) -> None:
        super().__init__()
        words = published["embeddings.word_embeddings.weight"][kept]
        scale = words.abs().amax(dim=1, keepdim=True) / 127
        self.register_buffer("words", torch.clamp(torch.round(words / scale), -127, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        places = published["embeddings.position_embeddings.weight"][:MOST_TOKENS]
        self.places = nn.Parameter((places + published["embeddings.token_type_embeddings.weight"][0]).clone())
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.norm.weight.data, self.norm.bias.data = published["embeddings.LayerNorm.weight"], published["embeddings.LayerNorm.bias"]
        self.layers = nn.ModuleList()
        for number in range(LAYERS):
            layer = Layer()
            for name, place in _PLACES.items():
                part = getattr(layer, name)
                part.weight.data = published[f"encoder.layer.{number}.{place}.weight"].clone()
                part.bias.data = published[f"encoder.layer.{number}.{place}.bias"].clone()
            self.layers.append(layer)
        self.drop = nn.Dropout(0.15)
        self.inner = nn.Linear(2 * WIDTH, 192)
        self.heads = nn.Linear(192, heads)

    def forward(self, ids: Any) -> Any:
        here = (ids > 0).to(torch.float32)
        words: Any = self.words
        scale: Any = self.scale
        states = self.norm(words[ids].to(torch.float32) * scale[ids] + self.places[: ids.shape[1]])
        bias = ((1.0 - here) * -10000.0)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, bias)
        weight = here.unsqueeze(-1)
        mean = (states * weight).sum(1) / weight.sum(1)
        top = (states + (weight - 1.0) * 100.0).amax(1)
        return self.heads(self.drop(nn.functional.gelu(self.inner(self.drop(torch.cat([mean, top], 1))))))
