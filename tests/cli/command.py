"""Running the command line, in this process."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest

from kronq.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """All of stdout as strict JSON: no NaN, no Infinity, nothing before or behind."""
        return json.loads(self.out, parse_constant=pytest.fail)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Kronq:
    """``kronq("quantize", "x", "--bits", 4)``: exit code, stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: object) -> Result:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        captured = self._capsys.readouterr()
        code = stop.value.code
        assert code is None or isinstance(code, int)
        return Result(code or 0, captured.out, captured.err)

    def refuses(self, *args: object) -> str:
        """Runs it, expects exit code 2 and one line on stderr, and returns that line.

        With ``--json`` stdout has it too, and nothing else.
        """
        result = self(*args)
        if "--json" in args:
            line = json.loads(result.out)["error"]["line"]
            assert result.err == f"kronq: error: {line}\n"
        else:
            assert result.out == ""
        assert result.code == 2
        assert result.err.startswith("kronq: error: "), result.err
        assert result.err.count("\n") == 1
        return result.err.strip()
