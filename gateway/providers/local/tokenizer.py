"""Which tokens does a text become, exactly? Byte-pair vocabularies compiled into a library, loaded only when configured.

Loading costs about half a second of CPU and 56 MB once a process: build it before serving, never on the event loop's time.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

_PIECE = 200_000  # the library refuses a million code points and more; a cut costs at most a token


class BpeTokenizer:
    """`o200k_base` or `cl100k_base`. Token arrays sent to embedding and completion models are in `cl100k_base`."""

    def __init__(self, encoding: str = "cl100k_base") -> None:
        # Through the loader, not a statement: the vocabularies belong to an optional extra.
        library = importlib.import_module("bpe_openai")
        self._encoding = library.get_encoding(encoding)
        self._ids = int(self._encoding.n_vocab)
        self.count("load the vocabulary now, not in the first request")
        self._name = encoding

    @property
    def name(self) -> str:
        return self._name

    def count(self, text: str) -> int:
        """Return the number of tokens; the spelling of a special token counts as the ordinary text it is."""
        return sum(len(self._encoding.encode_ordinary(text[at : at + _PIECE])) for at in range(0, len(text), _PIECE))

    def decode(self, tokens: Sequence[int]) -> str | None:
        """Return the text of `tokens`, or None if there is none."""
        special, ids = self._encoding.is_special_token, self._ids
        for token in tokens:
            # SECURITY: the library reads -1 as the last id and True as 1, and spells special tokens out; none of them is text.
            if type(token) is not int or not 0 <= token < ids or special(token):
                return None
        try:
            return str(self._encoding.decode_bytes(tokens), "utf-8")
        except (KeyError, ValueError):
            return None


class LazyTokenizer:
    """A tokenizer that loads its vocabulary when a token array first asks for it: most processes never see one.

    Without the `tokens` extra every token array is refused, as nothing could read it.
    """

    def __init__(self) -> None:
        self._loaded: BpeTokenizer | None = None
        self._absent = False

    @property
    def name(self) -> str:
        return "cl100k_base"

    def decode(self, tokens: Sequence[int]) -> str | None:
        """Return the text of `tokens`, None if there is none or no vocabulary."""
        if self._loaded is None and not self._absent:
            try:
                self._loaded = BpeTokenizer()
            except ImportError:
                self._absent = True
        return None if self._loaded is None else self._loaded.decode(tokens)

    def count(self, text: str) -> int:
        """Return the number of tokens, 0 while no vocabulary is loaded."""
        return 0 if self._loaded is None else self._loaded.count(text)
