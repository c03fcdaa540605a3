"""The stage of a UNet that a module belongs to, and the role of that stage in the U, by names. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from unetinspect.record import Role

StageOf = Callable[[str], str | None]
_PARTS: tuple[Role, ...] = ("down", "mid", "up")


def stage_finder(lists: Collection[str]) -> StageOf:
    """Return a function from a module's path to its stage: a top-level module, or one item of a top-level list.

    `lists` are the names of the top-level lists. The root and the lists themselves belong to no stage.

    >>> stage_of = stage_finder(["down_blocks"])
    >>> stage_of("down_blocks.0.resnets.1.conv1"), stage_of("mid_block.resnets.0"), stage_of("down_blocks"), stage_of("")
    ('down_blocks.0', 'mid_block', None, None)
    """

    def stage_of(path: str) -> str | None:
        first, _, rest = path.partition(".")
        if first not in lists:
            return first or None
        return f"{first}.{rest.partition('.')[0]}" if rest else None

    return stage_of


def paths_above(path: str) -> Iterator[str]:
    """Yield the paths of all modules around one, innermost first.

    >>> list(paths_above("mid_block.resnets.0"))
    ['mid_block.resnets', 'mid_block', '']
    """
    while path:
        path = path.rpartition(".")[0]
        yield path


def roles_of(names: Sequence[str], from_sample: Collection[str]) -> list[Role]:
    """Return the role of each stage, given in execution order.

    diffusers names the three parts of a U: down_blocks, mid_block, up_blocks. Any other stage that does not depend on `sample` is
    an embedding; the rest run before the first block ("in"), after the last ("out"), or between them ("mid": aMUSEd's
    `transformer_layers`).
    """
    parts = [next((part for part in _PARTS if name.startswith(part)), None) for name in names]
    blocks = [place for place, part in enumerate(parts) if part is not None]
    roles: list[Role] = []
    for place, (name, part) in enumerate(zip(names, parts, strict=True)):
        if part is not None or name not in from_sample:
            roles.append(part or "embed")
        else:
            roles.append("in" if not blocks or place < blocks[0] else "out" if place > blocks[-1] else "mid")
    return roles
