"""YAML, read as JSON is: plain values, each name once, no larger than a study is."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from kronq import limits
from kronq.errors import FormatError, KronqError, NotFoundError, StrPath
from kronq.io.extras import require


def read_yaml(path: StrPath) -> Any:
    """Reads a YAML file. Nothing in it is run.

    Raises:
        NotFoundError: There is no such file.
        FormatError: It is no YAML, too large or too deep, or has a name twice.
        MissingDependencyError: PyYAML is not installed.
    """
    require("study", "a study")
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Plain values; the last of equal names does not win."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            if len({*keys}) < len(keys):
                raise yaml.YAMLError("a name occurs twice")
            made: dict[Hashable, Any] = super().construct_mapping(node, deep)
            return made

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)  # what "<<" names, which may name others
            if len(node.value) > limits.FIELDS.value:
                raise yaml.YAMLError("too many names in one object")

    file = Path(path)
    try:
        limits.STUDY.check(file.stat().st_size, path)
        return yaml.load(file.read_text("utf-8"), Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        raise NotFoundError("no such file", path=path) from None
    except KronqError:
        raise
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise FormatError("not YAML", path=path, found=line) from None
