"""The page of a study: one HTML file that fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kronq.io.files import write_file
from kronq.report.display.table_view import TableView
from kronq.report.html.document import html_document
from kronq.report.markup import Child, Markup, join, table, tag
from kronq.study.summary import StudyReport


def write_page(report: StudyReport, pictures: Mapping[str, Path], path: Path) -> Path:
    """Writes the page.

    Args:
        report: What the study found.
        pictures: ``pareto`` and ``contrasts``, the SVGs that there are.
        path: The .html file.
    """
    sections = [
        tag("h1", f"{report.name}: adapters at their bytes"),
        _section("Loss over bytes", _picture(pictures, "pareto"), _as_table(report.view(), 2)),
        _advice(report),
        _question(report, pictures),
        _texts(report),
        _seeds(report),
    ]
    text = html_document(report.name, sections)
    return write_file(path, (text + "\n").encode(), force=True)


def _advice(report: StudyReport) -> Markup | None:
    if not report.advice:
        return None
    lead = (
        "Of what was made on every task, by the mean NLL; a longer list of methods may know better."
    )
    return _section(
        "Which to train for a size",
        tag("p", lead),
        tag("ul", [tag("li", line) for line in report.advice]),
    )


def _question(report: StudyReport, pictures: Mapping[str, Path]) -> Markup | None:
    if not report.contrasts:
        return None
    lead = (
        "Δ is the NLL of a file less that of its adapter as trained. Intervals are of a "
        "hierarchical bootstrap over seeds and questions; those of few seeds are too narrow."
    )
    sentences = tag("ul", [tag("li", c.sentence) for c in report.contrasts])
    return _section(
        "What quantization costs", tag("p", lead), _picture(pictures, "contrasts"), sentences
    )


def _texts(report: StudyReport) -> Markup | None:
    view = report.texts_view()
    if not view.rows:
        return None
    lead = (
        "Distributions of the next token on text that no adapter learned: KL from the base's, and "
        "from those of the same adapter as trained, in nats a token."
    )
    return _section("Text outside of the tasks", tag("p", lead), _as_table(view, 4))


def _seeds(report: StudyReport) -> Markup | None:
    if not report.seed_variances:
        return None
    rows = [
        [
            f"{v.first} − {v.second}",
            v.stored,
            v.task,
            f"{v.seeds}",
            *(f"{100 * x:.2f} %" for x in (v.difference, v.seed_sd, v.question_sd, v.rest_sd)),
            v.smallest_design or "none that was tried",
        ]
        for v in report.seed_variances
    ]
    head = ["difference", "stored as", "task", "seeds", "NLL", "seed's sd", "question's sd",
            "rest's sd", "smallest design for 0.3 %"]  # fmt: skip
    return _section("Seeds", table("Where the variance is", head, rows, words=3))


def _section(heading: str, *children: Child) -> Markup:
    return tag("section", tag("h2", heading), join(children))


def _picture(pictures: Mapping[str, Path], name: str) -> Markup | None:
    if name not in pictures:
        return None
    text = pictures[name].read_text("utf-8")
    return tag("figure", Markup(text[text.index("<svg") :]))


def _as_table(view: TableView, words: int) -> Markup:
    after = [tag("p", line) for line in view.after]
    return join([table("Means over seeds", [*view.columns], view.rows, words=words), *after])
