"""What a capture holds: words become positions, maps become heat maps, and files give back what was saved."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from tests.schema import assert_fits_the_schema
from tests.test_imports import imported_after
from unetinspect.capturing.captured import Captured, Captures, load_capture
from unetinspect.capturing.heat import COLORS, colored
from unetinspect.capturing.words import Prompt, read_prompt, read_prompts
from unetinspect.drawing.map_sheet import MapRow, map_sheet
from unetinspect.errors import SourceError, UsageError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPT = Prompt("a zebra eats", ((0, 0), (0, 1), (2, 5), (5, 7), (8, 12), (0, 0), (0, 0)))
OTHER = Prompt("no zebra", ((0, 0), (0, 2), (3, 8), (0, 0), (0, 0), (0, 0), (0, 0)))


def attention(path: str, grid: tuple[int, int], *lead: tuple[str, int], kind: str = "cross", keys: int = 7) -> Captured:
    """Return a random map whose queries are a grid, with some axes before them."""
    shape = (*(size for _, size in lead), grid[0] * grid[1], keys)
    probabilities = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(len(path)))).softmax(-1)
    axes = (*(axis for axis, _ in lead), "query", "token")
    return Captured(path, kind, path.partition(".")[0], axes, probabilities, grid, calls=(0, 1), timesteps=(999.0, 499.0))


def captures() -> Captures:
    """Return what a small pipeline might give: cross maps of two layers, a self map, a feature in bfloat16, a skip."""
    feature = Captured(
        "mid_block", "output", "mid_block", ("image", "channel", "y", "x"), torch.rand(2, 4, 3, 3).bfloat16(), None, (0,), ()
    )
    skip = replace(feature, path="up.resnets.0", kind="skip", source="down.resnets.1", tensor=feature.tensor.float())
    pixels = attention("up.0.attn1", (8, 12), ("image", 2), kind="self", keys=96)
    return Captures(
        maps=(
            attention("down.attn2", (4, 6), ("step", 2), ("image", 2), ("head", 3)),
            attention("up.0.attn2", (8, 12), ("image", 2)),
            pixels,
            replace(pixels, tensor=pixels.tensor[:, [1, 95]], queries=((0, 1), (7, 11))),
            replace(pixels, tensor=pixels.tensor.mean(1), axes=("image", "token")),
            replace(attention("up.1.attn2", (8, 12), ("image", 2), keys=2), tokens=(2, 4), product=1),
        ),
        features=(feature,),
        skips=(skip,),
        prompts=(PROMPT,),
    )


def clip() -> PreTrainedTokenizerFast:
    """CLIP's: BPE in lower case, the end of a word in its last piece."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("z", "e"), ("b", "r"), ("br", "a</w>"), ("o", "f</w>")]
    words = [*alphabet, *(f"{char}</w>" for char in alphabet), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=merges)  # type: ignore[arg-type]  # it takes pairs


def bytewise() -> PreTrainedTokenizerFast:
    """GPT's: the blank is in the first piece of a word, a character may be several pieces."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ze"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[("z", "e")]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def sentencepiece() -> PreTrainedTokenizerFast:
    """T5's: the most likely pieces, with the blank as a character."""
    pieces = [("<unk>", 0.0), *((char, -5.0) for char in f"▁{LETTERS}{LETTERS.upper()}éß雪,'"), ("▁ze", -2.0), ("bra", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("tokenizer", [clip(), bytewise(), sentencepiece()], ids=["clip", "bytes", "sentencepiece"])
@given(words=st.lists(st.sampled_from(["zebra", "Zebras", "of", "café", "a", "zebra,", "Straße", "é", "雪"]), min_size=1, max_size=8))
def test_the_positions_of_a_word_are_those_of_the_offsets_that_the_tokenizer_itself_gives(
    tokenizer: PreTrainedTokenizerFast, words: list[str]
) -> None:
    """The reference uses the original text and its offsets, the program only decodes."""
    text = " ".join(words)
    encoded = tokenizer([text], padding="max_length", max_length=60, return_offsets_mapping=True)
    (prompt,) = read_prompts(tokenizer, encoded.input_ids)
    assert read_prompt(tokenizer, text, length=60) == prompt
    for asked in {word.strip(",") for word in words}:
        starts = [
            sum(len(word) + 1 for word in words[:place]) for place, word in enumerate(words) if word.strip(",").lower() == asked.lower()
        ]
        inside = {place for start in starts for place in range(start, start + len(asked))}
        expected = [
            position
            for position, (start, end) in enumerate(encoded.offset_mapping[0])
            if any(place in inside and not text[place].isspace() for place in range(start, end))
        ]
        # A piece that is the blank alone has the offsets of the letter after it in some tokenizers.
        pieces = tokenizer.convert_ids_to_tokens(encoded.input_ids[0])
        assert list(prompt.find(asked.lower())) == [position for position in expected if pieces[position] != "▁"]


def enlarged(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge (h, w) with Keys' cubic kernel of a = -1/2, weights renormalized at the border, from its formula."""

    def weights(small: int, large: int) -> np.ndarray:
        centers = (np.arange(large) + 0.5) * small / large
        x = np.abs(centers[:, None] - (np.arange(small) + 0.5))
        kernel = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        return kernel / kernel.sum(axis=1, keepdims=True)

    return weights(array.shape[0], size[0]) @ array @ weights(array.shape[1], size[1]).T


def test_a_heat_map_is_the_mean_of_the_enlarged_maps_of_the_tokens_of_a_word() -> None:
    """DAAM's arithmetic, written out: heads and steps, then each layer and token on the largest grid, never below 0."""
    seen = captures()
    first = seen.maps[0].tensor[:, 1].mean(dim=(0, 1)).double().numpy()
    second = seen.maps[1].tensor[1].double().numpy()
    sizes = {None: (8, 12), (24, 20): (24, 20)}
    for size, (height, width) in sizes.items():
        maps = [
            enlarged(array[:, token].reshape(grid), (height, width)).clip(0)
            for array, grid in ((first, (4, 6)), (second, (8, 12)))
            for token in (2, 3)
        ]
        heat = seen.heat("ZEBRA", size, image=1)
        assert heat.array.dtype == np.float32
        np.testing.assert_allclose(heat.array, np.mean(maps, axis=0), atol=1e-5 * np.max(maps))
    np.testing.assert_array_equal(seen.heat([2, 3], image=1).array, seen.heat("zebra", image=1).array)
    # On their own grid, the maps of all tokens of a layer are probabilities: they sum to 1.
    np.testing.assert_allclose(7 * seen.heat(range(7), image=0, stage="up").array, 1, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "asked", "message", "hint"),
    [
        ({}, {"tokens": "zebar", "image": 0}, "no prompt contains the word 'zebar'", "its words: zebra, a, eats"),
        ({}, {"tokens": 1}, "the capture has the maps of 2 rows of the batch", "choose one (image=0"),
        ({}, {"tokens": 1, "image": 2}, "there is no image 2", "2 images, counted from 0"),
        ({}, {"tokens": 7, "image": 0}, "token 7 was not captured", "down.attn2 has 0 to 6"),
        ({}, {"tokens": (), "image": 0}, "heat needs at least one token", "a word of the prompt"),
        ({}, {"tokens": 1, "stage": "mid"}, "no captured map matches", "cross, self maps of 4x6, 8x12 queries in down, up"),
        ({}, {"tokens": 1, "paths": "up.2.attn2"}, "no captured map matches", "did you mean up."),
        ({}, {"tokens": "zebra", "prompt": 1}, "there is no prompt 1", "1 prompt, counted from 0"),
        ({"prompts": ()}, {"tokens": "zebra"}, "the capture has no prompt in which to find 'zebra'", "token positions"),
        ({"prompts": (PROMPT, OTHER)}, {"tokens": "zebra"}, "'zebra' has different token positions in different prompts", "(2, 3) or (2,)"),
    ],
)
def test_a_heat_map_that_is_not_there_or_ambiguous_is_refused_and_never_guessed(change, asked, message: str, hint: str) -> None:
    """Each refusal says what to give instead; with the prompt named, the ambiguous word is found."""
    with pytest.raises(UsageError) as raised:
        replace(captures(), **change).heat(**asked)
    assert raised.value.message == message
    assert hint in (raised.value.hint or "")
    if len(change.get("prompts", ())) == 2:
        seen = replace(captures(), **change)
        np.testing.assert_array_equal(seen.heat("zebra", image=0, prompt=1).array, seen.heat(2, image=0).array)


def test_maps_are_selected_by_the_words_of_attn() -> None:
    seen = captures()
    assert [one.path for one in seen.select("cross", tokens_at="8x12")] == ["up.0.attn2", "up.1.attn2"]
    assert [one.path for one in seen.select(stage="up", product=0)] == ["up.0.attn2", *["up.0.attn1"] * 3]
    with pytest.raises(UsageError, match="no captured map matches"):
        seen.select(tokens_at="12x8")


def test_the_colors_rise_evenly_in_lightness() -> None:
    """OKLab lightness, from its published matrices: from black-blue to yellow-white without a step, up to 8-bit rounding."""
    srgb = np.asarray(colored(np.linspace(0, 1, 256, dtype=np.float32)[None]))[0] / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [[0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376], [0.0514459929, 0.1073969566, 0.6299787005]]
    )
    lightness = np.cbrt(cones) @ [0.2104542553, 0.7936177850, -0.0040720468]
    assert np.diff(lightness).min() > 0
    assert np.abs(lightness - np.linspace(0.16, 0.96, 256)).max() < 0.003
    assert len(set(COLORS[::3])) > 8


def test_a_picture_is_the_image_where_alpha_is_0_and_the_colors_where_it_is_1() -> None:
    heat = captures().heat("zebra", image=0)
    photo = Image.effect_mandelbrot((36, 24), (-2, -1, 1, 1), 20).convert("RGB")
    assert heat.picture(photo, alpha=0).tobytes() == photo.tobytes()
    shown = heat.picture(photo)
    assert shown.size == photo.size
    assert shown.tobytes() == heat.picture(photo).tobytes()
    assert heat.picture().size == (12, 8)
    brightest = np.unravel_index(heat.array.argmax(), heat.array.shape)
    assert np.asarray(heat.picture())[brightest].tobytes() == COLORS[-3:]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_gives_back_everything_and_its_bytes_are_the_same_each_time(tmp_path, suffix: str) -> None:
    """numpy has no bfloat16, so the feature comes back in float32 from .npz, with the same values."""
    seen, path = captures(), tmp_path / f"seen{suffix}"
    seen.save(path)
    written = path.read_bytes()
    back = load_capture(path)
    back.save(path)
    assert path.read_bytes() == written
    assert back.prompts == seen.prompts
    for group in ("maps", "features", "skips"):
        for old, new in zip(getattr(seen, group), getattr(back, group), strict=True):
            assert replace(old, tensor=None).__dict__ == replace(new, tensor=None).__dict__
            assert torch.equal(old.tensor.float(), new.tensor.float())
    assert back.features[0].tensor.dtype == (torch.bfloat16 if suffix == ".safetensors" else torch.float32)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@given(where=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_an_error_with_a_sentence_or_still_a_capture(
    tmp_path_factory, suffix: str, where: float, byte: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    captures().save(path)
    content = bytearray(path.read_bytes())
    place = int(where * (len(content) - 1))
    content[place] = byte
    path.write_bytes(content[:place] if cut else content)
    with suppress(SourceError):
        load_capture(path)


@pytest.fixture
def saved(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a saved capture in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    captures().save("seen.safetensors")
    return "seen.safetensors"


def test_the_command_shows_what_was_captured_and_its_json_fits_the_schema(cli: Any, saved: str) -> None:
    code, out, err = cli("maps", saved, "--kind", "cross", "--stage", "up")
    assert (code, err) == (0, "")
    assert out.startswith("""\
Maps
prompt 0: "a zebra eats"
captured: 2 UNet calls

layer       kind   product  shape       grid  tokens  calls
───────────────────────────────────────────────────────────
up.0.attn2  cross        0  (2, 96, 7)  8x12  all         2
up.1.attn2  cross        1  (2, 96, 2)  8x12  2, 4        2

2 of 6 maps shown
axes: (image, query, token)
""")
    document = json.loads(cli("maps", saved, "--json")[1])
    assert_fits_the_schema(document)
    with safe_open(saved, "numpy") as file:
        for one in document["maps"] + document["skips"]:
            assert file.get_tensor(one["tensor"]["name"]).shape == tuple(one["tensor"]["shape"])


def test_a_sheet_has_a_picture_for_each_layer_and_word_and_the_number_below_is_its_maximum(cli: Any, saved: str) -> None:
    """Words over cross maps, positions over an image adapter's tokens, what pixels receive over self maps; the same bytes in each run."""
    seen = captures()
    assert cli("maps", saved, "--image", "1", "-o", "sheet.svg") == (0, "", "")
    sheet = Path("sheet.svg").read_bytes()
    assert cli("maps", saved, "--image", "1", "-o", "sheet.svg") == (0, "", "")
    assert Path("sheet.svg").read_bytes() == sheet
    elements = [*ET.fromstring(sheet).iter("{http://www.w3.org/2000/svg}text")]
    bold = [one.text for one in elements if one.get("font-weight")]
    numbers = [one.text for one in elements if one.get("text-anchor") and not one.get("font-weight")]
    assert bold == [
        *("a", "zebra", "eats", "down", "up", "received", "up", "up"),
        *("query 0, 1", "query 7, 11", "up", "token 2", "token 4", "up"),
    ]
    first, second, pixels, queries, folded, adapter = (one.tensor.numpy() for one in seen.maps)
    shown = [
        *(first[:, 1].mean((0, 1))[:, tokens].mean(-1).max() for tokens in ([1], [2, 3], [4])),
        *(second[1][:, tokens].mean(-1).max() for tokens in ([1], [2, 3], [4])),
        pixels[1].mean(0).max(),
        folded[1].max(),
        *queries[1].max(1),
        *adapter[1].max(0),
    ]
    assert numbers == [f"{value:.3g}" for value in shown]
    assert sheet.count(b"<image ") == 12


def test_a_sheet_of_few_words_has_its_layers_beside_each_other() -> None:
    """One word of 20 layers: a grid about as wide and high as a page, in execution order down each strip, each strip with its label."""
    seen = captures().maps
    rows = [MapRow(replace(seen[0], execution=place), {"zebra": np.ones((8, 8), np.float32)}) for place in range(20)]
    root = ET.fromstring(map_sheet(rows, form="svg"))
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    places = [(float(one.attrib["x"]), float(one.attrib["y"])) for one in root.iter("{http://www.w3.org/2000/svg}image")]
    labels = [float(one.attrib["x"]) - 44 for one in root.iter("{http://www.w3.org/2000/svg}text") if one.text == "zebra"]
    assert 0.6 < width / height < 0.95
    assert len(set(places)) == 20
    assert places == sorted(places)
    assert labels == sorted({x for x, _ in places})
    assert max(labels) + 88 < width


def test_a_folder_gets_a_picture_of_each_layer(cli: Any, saved: str) -> None:
    assert cli("maps", saved, "--kind", "cross", "--stage", "down", "--image", "0", "--token", "zebra", "-o", "maps/") == (0, "", "")
    (picture,) = Path("maps").iterdir()
    assert picture.name == "0.down.attn2.png"
    with Image.open(picture) as opened:
        assert opened.size[0] > 2 * 88


def test_words_of_several_prompts_label_nothing_until_one_is_chosen(cli: Any, saved: str) -> None:
    """The word "zebra" has another position in each prompt, so a column with its name would be a guess."""
    replace(captures(), prompts=(PROMPT, OTHER)).save(saved)
    words = ("maps", saved, "--layer", "down.attn2", "--image", "0", "-o", "sheet.svg")
    note = "note: several prompts: tokens are numbered; --prompt N draws the words of one\n"
    assert cli(*words) == (0, "", note)
    assert all(f">token {position}<" in Path("sheet.svg").read_text() for position in range(7))
    assert cli(*words, "--prompt", "1") == (0, "", "")
    assert Path("sheet.svg").read_text().count(">no<") == Path("sheet.svg").read_text().count(">zebra<") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("seen.safetensors -o x.png", "the capture has the maps of 2 rows of the batch"),
        ("seen.safetensors --token zebra", "--token, --prompt and --image decide what a picture shows"),
        ("seen.safetensors --prompt 1 --image 0 -o x.svg", "there is no prompt 1"),
        ("seen.safetensors --json -o maps/", "--json and -o maps/ cannot be used together"),
        ("seen.safetensors --layer up.0.attn3", "no captured map matches"),
        ("seen.safetensors --image 0 -o none/maps/", "cannot create none/maps/: no such file or directory"),
        ("none.safetensors", "there is no file none.safetensors"),
        ("unet.safetensors", "unet.safetensors is not a capture"),
        ("newer.npz", "newer.npz is damaged, or from a newer version: Invalid enum value 'unetinspect.capture/2' - at `$.schema`"),
        ("cut.npz", "cut.npz is damaged: File is not a zip file"),
        ("odd.npz", "odd.npz is damaged: maps.0.a"),
        ("empty.npz", "empty.npz is damaged: maps.0.a"),
        ("wrong.npz -o x.png", "wrong.npz is damaged: maps.0.a"),
    ],
)
def test_a_mistake_leaves_no_file_and_says_what_to_do(cli: Any, saved: str, words: str, message: str) -> None:
    save_file({"conv_in.weight": torch.zeros(2)}, "unet.safetensors")
    np.savez("newer.npz", meta=np.array('{"schema": "unetinspect.capture/2"}'))
    Path("cut.npz").write_bytes(Path("newer.npz").read_bytes()[:99])
    # Axes in another order, an image of no pixels, a tensor of another shape than was written down.
    for name, axes, shape in (
        ("odd", ["token", "query"], [4, 4]),
        ("empty", ["query", "token"], [0, 4]),
        ("wrong", ["query", "token"], [4, 5]),
    ):
        stored = {"name": "maps.0.a", "shape": shape, "dtype": "float32"}
        one = {"path": "a", "kind": "cross", "stage": "a", "axes": axes, "tensor": stored, "grid": None, "calls": [], "timesteps": []}
        arrays: dict[str, Any] = {"meta": np.array(json.dumps({"maps": [one]})), "maps.0.a": np.zeros((4, 4), np.float32)}
        np.savez(f"{name}.npz", **arrays)
    before = {*Path().iterdir()}
    code, out, err = cli("maps", *words.split())
    assert code == (2 if words.startswith("seen") else 3)
    assert out == ""
    assert re.fullmatch(rf"error: {re.escape(message)}\nhint: .+\n", err)
    assert {*Path().iterdir()} == before


def test_the_command_imports_no_torch(saved: str) -> None:
    """Neither for tables nor for pictures."""
    assert imported_after("from unetinspect.cli.main import main\nmain('maps seen.safetensors --image 0 -o x.png'.split())") == set()
    assert Path("x.png").is_file()
