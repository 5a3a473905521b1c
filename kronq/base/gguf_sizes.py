"""What a GGUF file claims, checked before a model is made of it: sizes against its tensors."""

from __future__ import annotations

import re
from pathlib import Path

from kronq.base.gguf_architectures import check_architecture
from kronq.errors import FormatError
from kronq.io.gguf_file import open_gguf, read_values

_COUNTED = re.compile(r".+\.(block_count|expert_count|expert_used_count)")
_MEASURED = re.compile(
    r".+\.(embedding_length|feed_forward_length|expert_feed_forward_length|vocab_size"
    r"|attention\.(head_count|head_count_kv|key_length|value_length))"
)
_BLOCK = re.compile(r"blk\.(\d+)\.")


def check_gguf(path: Path) -> None:
    """Refuses a file whose settings ask for a larger model than its tensors are.

    transformers makes the model of the settings first, and looks for its tensors then.

    Raises:
        FormatError: A setting is larger than any tensor, or the file is damaged.
        UnsupportedError: Its architecture is none that becomes a base, or a tensor is of a type
            that the gguf package cannot read.
    """
    reader = open_gguf(path)
    values = read_values(reader, path)
    check_architecture(values, path)
    blocks = {int(match[1]) for t in reader.tensors if (match := _BLOCK.match(t.name))}
    sizes = [int(size) for tensor in reader.tensors for size in tensor.shape]
    claims = {
        name: value
        for name, value in values.items()
        if _COUNTED.fullmatch(name) or _MEASURED.fullmatch(name)
    }
    largest = max(sizes, default=0)
    for name, claim in claims.items():
        limit = len(blocks) if name.endswith(".block_count") else largest
        for value in claim if isinstance(claim, list) else [claim]:
            if not isinstance(value, int) or not 0 <= value <= limit:
                raise FormatError(
                    f"{name} is larger than the file's tensors",
                    path=path,
                    found=str(value)[:40],
                    expected=f"at most {limit}",
                    code="truncated",
                )
