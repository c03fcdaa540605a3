"""The whole record, and its JSON form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from unetinspect.errors import SourceError
from unetinspect.record.check import Check, Fit
from unetinspect.record.checkpoint import Name
from unetinspect.record.costs import Profile, SweepPoint
from unetinspect.record.run import ModelInfo, OutputInfo, Run, TensorInfo
from unetinspect.record.sections import Attention, Module, Port, Skip, Stage, Totals
from unetinspect.units import map_texts

if TYPE_CHECKING:
    import os

    import pandas as pd

    from unetinspect.drawing.drawing import Drawing

SCHEMA: Literal["unetinspect.trace/1"] = "unetinspect.trace/1"
_WRITE_AGAIN = "write it again with `unetinspect trace MODEL --json`"
_CONTROLS = re.compile("[\x7f-\x9f]")


class Trace(Struct, frozen=True, kw_only=True):
    """One forward pass of one UNet, observed. Every command is a view of it.

    Attributes:
        stages: In execution order.
        skips: In the order in which they were consumed.
        attentions: In execution order.
        modules: The whole tree.
        outputs: Every tensor that was returned; `output` is the first of them.
        ports: What can be attached, residuals in the order of their lists.
    """

    schema: Literal["unetinspect.trace/1"] = SCHEMA
    model: ModelInfo
    run: Run
    output: TensorInfo
    totals: Totals
    stages: tuple[Stage, ...]
    skips: tuple[Skip, ...]
    attentions: tuple[Attention, ...]
    modules: tuple[Module, ...]
    outputs: tuple[OutputInfo, ...] = ()
    ports: tuple[Port, ...] = ()

    def to_json(self) -> str:
        """Write the whole record as JSON."""
        return to_json(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a file, as `unetinspect trace MODEL --json -o FILE` does; every command takes that file as MODEL.

        Raises:
            UsageError: The file cannot be written; if it exists, it is unchanged.
        """
        from unetinspect.streams import save_file

        save_file(path, f"{self.to_json()}\n".encode())

    def draw(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        level: Literal["stage", "layer"] = "stage",
        layout: Literal["tall", "wide", "compact"] = "tall",
        title: str | None = None,
        legend: bool = True,
    ) -> Drawing:
        """Draw the U: a picture in a notebook, text as `str()`, and a file where `path` is given.

        `level` is "stage", or "layer" for each resnet, transformer and sampler. `layout` is that of a picture: "tall", "wide" for a
        slide, "compact" for a column of a paper; `title` replaces its title ("": none), and `legend` is whether it has a legend.
        The file extension of `path` selects the form: .svg, .html, .png, .pdf, .mmd (Mermaid), .dot (Graphviz), .txt.

        Raises:
            UsageError: The path has no such extension or cannot be written; the level or the layout is unknown.
        """
        from unetinspect.drawing.drawing import Drawing

        drawing = Drawing(self, level=level, layout=layout, title=title, legend=legend)
        if path is not None:
            drawing.save(path)
        return drawing

    def to_dataframe(self, section: str | None = None) -> pd.DataFrame:
        """Return one section as a pandas DataFrame: "stages", "skips", "attentions", "modules", "ports", "outputs" or "inputs".

        A row is a record, a column one of its fields, a nested one under a dotted name ("attention.self"). Shapes are tuples.

        Raises:
            UsageError: There is no such section or none is named (the hint lists them), or there is no pandas.
        """
        from unetinspect.views.table import to_dataframe

        return to_dataframe(self, section)

    def __repr__(self) -> str:
        """Return one line: model, shapes and counts."""
        from unetinspect.drawing.drawing import one_line

        return one_line(self)

    def _repr_html_(self) -> str:
        from unetinspect.drawing.drawing import to_html

        return to_html(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Trace:
        """Read a record that `to_json` wrote.

        Raises:
            SourceError: It is not a trace, is damaged, contradicts itself, or has a schema that this version does not know.
        """
        try:
            found = msgspec.json.decode(text, type=_SchemaOnly).schema
            if found != SCHEMA:
                raise SourceError(
                    f"this trace has the schema {found!r}; this version reads {SCHEMA!r}",
                    hint="trace the model again, or use the version of unetinspect that wrote the file",
                )
            record = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise SourceError(f"this is not a whole trace: {error}", hint=_WRITE_AGAIN) from None
        contradiction = next(_contradictions(record), None)
        if contradiction:
            raise SourceError(f"this trace contradicts itself: {contradiction}", hint=_WRITE_AGAIN)
        return record


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `--json` prints: the sections of the record that the command shows."""

    schema: Literal["unetinspect.trace/1"] | UnsetType = UNSET
    model: ModelInfo
    run: Run | UnsetType = UNSET
    output: TensorInfo | UnsetType = UNSET
    totals: Totals | UnsetType = UNSET
    stages: tuple[Stage, ...] | UnsetType = UNSET
    skips: tuple[Skip, ...] | UnsetType = UNSET
    attentions: tuple[Attention, ...] | UnsetType = UNSET
    modules: tuple[Module, ...] | UnsetType = UNSET
    ports: tuple[Port, ...] | UnsetType = UNSET
    fit: Fit | UnsetType = UNSET
    sweep: tuple[SweepPoint, ...] | UnsetType = UNSET
    profile: Profile | UnsetType = UNSET
    check: Check | UnsetType = UNSET
    names: tuple[Name, ...] | UnsetType = UNSET

    @classmethod
    def of(cls, record: Trace, **sections: Any) -> Envelope:
        """Return the sections of a record that every command prints, and those that one command shows."""
        return cls(schema=record.schema, model=record.model, run=record.run, output=record.output, totals=record.totals, **sections)


def _contradictions(record: Trace) -> Iterator[str]:
    """Yield what one section names and another does not have: every view relies on these names."""
    modules, stages = {module.path for module in record.modules}, {stage.name for stage in record.stages}
    yield from (f"stage {name!r} is not one of its modules" for name in stages - modules)
    yield from (f"module {path!r} has no parent" for path in modules if path and path.rpartition(".")[0] not in modules)
    named = [("a skip", stage) for skip in record.skips for stage in (skip.source_stage, skip.target_stage)]
    named += [("an attention layer", layer.stage) for layer in record.attentions]
    yield from (f"{what} names {stage!r}, which is not one of its stages" for what, stage in named if stage not in stages)


class _SchemaOnly(Struct):
    schema: str


def to_json(value: Any) -> str:
    """Write a record as indented JSON, without a newline at the end; what is not Unicode is backslashed, as in tables."""
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:  # a file's name that is not UTF-8, half of a surrogate pair in a config
        encoded = msgspec.json.encode(map_texts(msgspec.to_builtins(value), lambda text: text.encode(errors="backslashreplace").decode()))
    text = msgspec.json.format(encoded, indent=2).decode()
    # JSON allows control characters in texts, but a terminal may obey them.
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
