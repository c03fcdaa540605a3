"""Pairs the stages of two UNets, each with the one that stands in its place in the U."""

from __future__ import annotations

from collections.abc import Sequence

from unetinspect.compare.align import Place, align, channels, level, merged
from unetinspect.record import Role, Shape, Stage, Trace

# Down, in the middle and up, stages are paired by where they stand; what makes embeddings is called by the same name everywhere.
_IN_ORDER: tuple[Role, ...] = ("in", "down", "mid", "up", "out")


def stage_pairs(a: Trace, b: Trace) -> list[tuple[Stage | None, Stage | None]]:
    """Return every stage of both, in A's order, what B alone has where it stands in B."""
    partner: dict[str, str] = {}
    for role in _IN_ORDER:
        pairs = align(_placed(a, role), _placed(b, role), lambda item: item[1])
        partner |= {mine[0]: other[0] for mine, other in pairs if mine is not None and other is not None}
    _pair_by_name(a.stages, b.stages, partner)
    stages_a, stages_b = ({stage.name: stage for stage in trace.stages} for trace in (a, b))
    order = merged(list(stages_a), list(stages_b), partner)
    return [(None if mine is None else stages_a[mine], None if other is None else stages_b[other]) for mine, other in order]


def _pair_by_name(a: Sequence[Stage], b: Sequence[Stage], partner: dict[str, str]) -> None:
    """Pair what makes embeddings, and what stands elsewhere in the other U, by its name."""
    taken = set(partner.values())
    roles = {stage.name: stage.role for stage in b if stage.name not in taken}
    for stage in a:
        if stage.name not in partner and (stage.role == "embed" or roles.get(stage.name, stage.role) != stage.role):
            partner |= {stage.name: stage.name} if stage.name in roles else {}


def _placed(trace: Trace, role: Role) -> list[tuple[str, Place]]:
    stages = [stage for stage in trace.stages if stage.role == role]
    size = trace.run.sample_size
    # Levels go from the inside, so what is alike on the way up is counted from the end.
    first = 1 - len(stages) if role == "up" else 0
    return [(stage.name, _place(stage, size, first + place)) for place, stage in enumerate(stages)]


def _place(stage: Stage, size: Shape, number: int) -> Place:
    return Place(
        name=stage.name,
        class_name=stage.class_name,
        in_level=level(stage.in_shape, size),
        out_level=level(stage.out_shape, size),
        in_channels=channels(stage.in_shape, size),
        out_channels=channels(stage.out_shape, size),
        number=number,
    )
