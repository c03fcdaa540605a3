"""Heat maps over an image: attention maps of tokens on the grid of their queries, scaled up, averaged, colored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from unetinspect.errors import UsageError
from unetinspect.units import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from unetinspect.capturing.captured import Captured

    Floats = NDArray[np.float32]

# From dark to light in even steps of OKLab lightness, 0.16 to 0.96, while the hue turns from blue over red to yellow; sRGB.
# Colors between two neighbors are interpolated.
COLORS = bytes.fromhex(
    "0d0131 200144 350253 4d045d 670563 810765 9d0a62 b51c5a cb304f de4642 ec5f32 f77824 fd9323 fdae3f fec85b fde07c fcf6a3"
)


@dataclass(frozen=True, eq=False)
class Heat:
    """A heat map.

    Attributes:
        array: (height, width) float32, mean attention probabilities.
    """

    array: Floats

    def picture(self, image: Image | None = None, *, alpha: float = 0.6) -> Image:
        """Color the map, from 0 to its maximum; over an image, at the size of the image.

        Args:
            image: The image to draw over; None: the colors alone.
            alpha: The weight of the colors over the image, from 0 (the image alone) to 1.
        """
        if image is None:
            return colored(self.array)
        from PIL import Image

        return Image.blend(image.convert("RGB"), colored(scaled(self.array, (image.height, image.width))), alpha)


def colored(array: Floats) -> Image:
    """Color (height, width) values, from 0 to their maximum."""
    import numpy as np
    from PIL import Image

    table = np.frombuffer(COLORS, np.uint8).reshape(-1, 3)
    array = np.nan_to_num(array)  # in half precision, attention may overflow
    places = np.clip(array / (array.max() or 1), 0, 1) * (len(table) - 1)
    channels = [np.interp(places, range(len(table)), channel) for channel in table.T]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def scaled(array: Floats, size: tuple[int, int]) -> Floats:
    """Scale (height, width) values to another size, bicubic; what falls below 0 becomes 0."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(array.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image).clip(min=0)


def map_of_image(seen: Captured, image: int | None) -> Floats:
    """Return the map of one image, (query, token) as far as these axes were kept, averaged over steps and heads.

    Raises:
        UsageError: There is no such image, or there are several and none is chosen.
    """
    array: Any = _array(seen.tensor)
    axes = seen.axes
    if "image" in axes:
        images = array.shape[axes.index("image")]
        if image is None and images > 1:
            hint = 'choose one (image=0, or --image 0), or capture only the conditional rows: rows="cond"'
            raise UsageError(f"the capture has the maps of {images} rows of the batch", hint=hint)
        if (image or 0) not in range(images):
            raise UsageError(f"there is no image {image}", hint=f"the capture has the maps of {plural(images, 'image')}, counted from 0")
        array = array.take(image or 0, axis=axes.index("image"))
        axes = tuple(axis for axis in axes if axis != "image")
    mean: Floats = array.mean(axis=tuple(place for place, axis in enumerate(axes) if axis in ("step", "head")))
    return mean


def maps_of_tokens(seen: Captured, positions: Sequence[int], image: int | None) -> Floats:
    """Return the maps of some tokens on the grid of the queries, (token, height, width), averaged over steps and heads.

    Raises:
        UsageError: The queries were not all kept, one of the tokens was not, or an image must be chosen.
    """
    if seen.grid is None or seen.queries is not None or "query" not in seen.axes:
        raise UsageError(f"the map of {seen.path} does not have all queries of an image", hint="capture it with queries=None")
    kept = seen.kept_tokens
    missing = next((position for position in positions if position not in kept), None)
    if missing is not None:
        shown = f"0 to {kept[-1]}" if seen.tokens is None else ", ".join(map(str, kept))
        raise UsageError(f"token {missing} was not captured", hint=f"{seen.path} has {shown}")
    columns = map_of_image(seen, image)[:, [kept.index(position) for position in positions]]
    return columns.T.reshape(-1, *seen.grid)


def pictures_of(seen: Captured, columns: Mapping[str, Sequence[int]], image: int | None) -> dict[str, Floats]:
    """Return what of a map is an image, by label: (height, width) each.

    Where the keys are the grid: the attention that they receive, from each kept query or from all on average. Else: where the
    queries are that attend to the tokens of each column. Empty: neither is kept whole.

    Raises:
        UsageError: A column's token was not captured, or an image must be chosen.
    """
    if seen.grid is None:
        return {}
    if seen.kind == "self" and seen.product == 0 and seen.tokens is None and seen.tensor.shape[-1] == prod(seen.grid):
        array = map_of_image(seen, image)
        if seen.queries is not None:
            return {f"query {y}, {x}": row.reshape(seen.grid) for (y, x), row in zip(seen.queries, array, strict=True)}
        return {"received": (array.mean(0) if "query" in seen.axes else array).reshape(seen.grid)}
    if seen.queries is not None or "query" not in seen.axes:
        return {}
    return {label: maps_of_tokens(seen, positions, image).mean(0) for label, positions in columns.items()}


def heat_map(maps: Sequence[Captured], positions: Sequence[int], size: tuple[int, int], image: int | None) -> Heat:
    """Scale the maps of tokens up to `size`, and average them over layers and tokens.

    Raises:
        UsageError: As `maps_of_tokens` does.
    """
    total: Any = 0
    for seen in maps:
        total = total + sum(scaled(one, size) for one in maps_of_tokens(seen, positions, image))
    return Heat(total / (len(maps) * len(positions)))


def _array(tensor: Any) -> Floats:
    """Return a tensor of torch or an array as numpy's float32."""
    import numpy as np

    return np.asarray(tensor.detach().float().cpu() if hasattr(tensor, "detach") else tensor, np.float32)
