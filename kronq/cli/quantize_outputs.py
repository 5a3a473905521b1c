"""Files that ``kronq quantize`` writes for one adapter, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kronq.errors import KronqError
from kronq.io.files import check_apart, check_output
from kronq.readers.peft_config import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Outputs:
    """Files that the command writes; None for those that it does not."""

    adapter: str | None
    report: str | None
    page: str | None
    force: bool

    @property
    def given(self) -> dict[str, str]:
        """Option → file."""
        paths = {"-o": self.adapter, "--report": self.report, "--html": self.page}
        return {option: path for option, path in paths.items() if path is not None}

    def check_names(self) -> None:
        """Refuses names that do not suit their contents, and one name for two files."""
        from kronq.packed.writer import check_packed_name
        from kronq.report.html import check_page_name

        if self.adapter is not None:
            check_packed_name(self.adapter)
        if self.page is not None:
            check_page_name(self.page)
        options: dict[Path, str] = {}
        for name, path in self.given.items():
            other = options.setdefault(Path(path).resolve(), name)
            if other != name:
                raise KronqError(f"{other} and {name} are the same file", path=path)

    def check_free(self, source: str) -> None:
        """Refuses outputs that exist, or that are the source."""
        for path in self.given.values():
            check_apart(path, *(Path(source) / part for part in ("", CONFIG, WEIGHTS)))
            check_output(path, force=self.force)
