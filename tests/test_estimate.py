"""How large a config's UNet would be is told before it is built, and what is too large is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import kinds_other, kinds_plugs, kinds_video, tiny
from unetinspect.catalog import load_catalog
from unetinspect.errors import ConfigError, ForwardError, UsageError
from unetinspect.record import Source
from unetinspect.run.estimate import (
    MAX_ELEMENTS,
    MAX_MODULES,
    available_memory,
    estimate,
    refuse_beyond_memory,
    refuse_huge,
    refuse_huge_inputs,
)
from unetinspect.run.plan import plan_work
from unetinspect.run.resolve import resolve_config
from unetinspect.source import LoadedModel
from unetinspect.unets import supported_classes
from unetinspect.unets.base import InputSpec
from unetinspect.unets.request import make_request

FACTOR = 3
SMALL = {**tiny.KINDS, **kinds_other.KINDS, **kinds_plugs.KINDS, **kinds_video.KINDS}
# Each key that multiplies modules, of each class that has it.
MULTIPLIERS = {
    **dict.fromkeys(("UNet2DModel", "UNet1DModel", "UNet3DConditionModel", "I2VGenXLUNet", "Kandinsky3UNet"), ("layers_per_block",)),
    **dict.fromkeys(
        ("UNet2DConditionModel", "AudioLDM2UNet2DConditionModel", "UNetSpatioTemporalConditionModel", "ControlNetModel"),
        ("layers_per_block", "transformer_layers_per_block"),
    ),
    "UNetMotionModel": ("layers_per_block", "transformer_layers_per_block", "temporal_transformer_layers_per_block", "mid_block_layers"),
    "ControlNetUnionModel": ("layers_per_block", "transformer_layers_per_block", "num_trans_layer"),
    "SparseControlNetModel": ("layers_per_block", "transformer_layers_per_block", "temporal_transformer_layers_per_block"),
    "UNetControlNetXSModel": ("transformer_layers_per_block",),
    "DreamLiteUNetModel": ("layers_per_block", "transformer_layers_per_block", "num_mid_layers"),
    "UVit2DModel": ("num_hidden_layers", "num_res_blocks"),
    "T2IAdapter": ("num_res_blocks",),
    # What runs in its place is the UNet that its motion modules are put into.
    "MotionAdapter": ("layers_per_block",),
    "StableCascadeUNet": ("down_num_layers_per_block", "up_num_layers_per_block", "up_blocks_repeat_mappers"),
}


def values_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class of a config, and every key of it."""
    resolved = resolve_config(config)
    return resolved.class_name, resolved.values


@pytest.mark.parametrize("name", list(load_catalog()))
def test_the_estimate_of_published_models_is_near_and_ten_of_each_still_pass(name: str) -> None:
    """Parameters are within a factor of what was counted on the built UNet, and ten times the modules are not refused."""
    entry = load_catalog()[name]
    class_name, values = values_of(entry.config)

    found = estimate(class_name, values)

    assert found.params is None or entry.params / FACTOR - 1e8 < found.params < entry.params * FACTOR + 1e8
    assert found.modules * 10 < MAX_MODULES
    refuse_huge(class_name, values, name=name, force=False)


@pytest.mark.parametrize("name", list(SMALL)[::6])
def test_the_estimate_is_near_the_number_of_modules(name: str) -> None:
    """Small configs of every class have as many modules as was estimated, within a factor; their parts that are no layers set aside."""
    import torch

    from unetinspect.run.build import build_unet

    class_name, values = values_of(SMALL[name])

    unet = build_unet(resolve_config(SMALL[name]), device=torch.device("meta"), dtype=torch.float32, name=name)
    found = estimate(class_name, values)

    count = len(list(unet.modules()))
    assert (count - 100) / FACTOR <= found.modules <= FACTOR * count + 100


@pytest.mark.parametrize("layers", [1, 10])
def test_the_estimate_grows_as_the_modules_do(layers: int) -> None:
    """Ten times the layers are as many times the modules in the estimate as in what is built."""
    import torch

    from unetinspect.run.build import build_unet

    config = tiny.condition(layers_per_block=layers, transformer_layers_per_block=2)
    unet = build_unet(resolve_config(config), device=torch.device("meta"), dtype=torch.float32, name="small")

    assert 0.5 < estimate(*values_of(config)).modules / len(list(unet.modules())) < 2


@pytest.mark.parametrize("class_name", supported_classes())
def test_every_key_that_multiplies_layers_is_seen(class_name: str) -> None:
    """A count of ten million is refused in any class, the sentence names the key, and --force lifts it."""
    resolved, values = values_of({"_class_name": class_name})
    for key in MULTIPLIERS[class_name]:
        large = [10**7] * len(values[key]) if isinstance(values[key], list) else 10**7
        huge = {**values, key: large}

        with pytest.raises(ConfigError, match=rf"would have about [\d,]+ layers: {key} is \[?10000000") as raised:
            refuse_huge(resolved, huge, name="it", force=False)

        assert "--force" in (raised.value.hint or "")
        refuse_huge(resolved, huge, name="it", force=True)


@pytest.mark.parametrize("key", ["down_block_types", "block_out_channels", "cross_attention_dim", "attention_head_dim"])
def test_lists_of_hundreds_of_thousands_are_refused(key: str) -> None:
    """A list of 400,000 entries is refused with its length, flat or in another list, and not written out."""
    class_name, values = values_of(tiny.CONDITION)
    for entries in ([8] * 400_000, [[8] * 400_000]):
        with pytest.raises(ConfigError, match=key) as raised:
            refuse_huge(class_name, {**values, key: entries}, name="it", force=False)

        assert len(raised.value.message) < 200


def test_a_class_that_nobody_has_seen_is_estimated_by_the_names_of_its_keys() -> None:
    """Ten blocks of ten layers of ten transformer layers each, on two ways: 10 x (10 + 11) x (1 + 10), and the middle."""
    found = estimate("NewUNet", {"block_out_channels": [8] * 10, "layers_per_block": 10, "transformer_layers_per_block": 10})

    assert found.layers == 10 * (10 + 11) * (1 + 10) + 3 + 10


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**5000], ids=["2^63", "-2^64", "10^5000"])
def test_numbers_that_no_tensor_has_are_refused(number: int) -> None:
    """A number beyond 2^63 is refused, whichever key holds it, also one that Python would not write."""
    class_name, values = values_of(tiny.CONDITION)

    with pytest.raises(ConfigError, match="sample_size of it holds a number beyond"):
        refuse_huge(class_name, {**values, "sample_size": number}, name="it", force=False)


def test_widths_are_refused_only_where_their_tensors_could_not_be_written_down() -> None:
    """A million channels are 9e12 weights a convolution and can be traced; four billion are 1.6e20, beyond what 63 bits count."""
    class_name, values = values_of(tiny.PLAIN)

    refuse_huge(class_name, {**values, "block_out_channels": [10**6, 10**6]}, name="it", force=False)
    with pytest.raises(ConfigError, match=r"parameters: block_out_channels is \[4000000000, 4000000000\]"):
        refuse_huge(class_name, {**values, "block_out_channels": [4 * 10**9] * 2}, name="it", force=False)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4), max_leaves=8
)


@given(st.sampled_from(list(SMALL)), st.dictionaries(st.integers(0, 60), ANYTHING, max_size=4))
def test_any_value_has_an_estimate(name: str, changes: dict[int, Any]) -> None:
    """Whatever a config holds, in any key: there is an estimate, or the one error that says it is too large."""
    class_name, values = values_of(SMALL[name])
    keys = list(values)
    changed = {**values, **{keys[place % len(keys)]: value for place, value in changes.items()}}

    assert estimate(class_name, changed).layers >= 0
    with suppress(ConfigError):
        refuse_huge(class_name, changed, name="it", force=False)


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_more_layers_are_never_fewer_modules(few: int, more: int) -> None:
    """The estimate grows with every count."""
    for key in ("layers_per_block", "transformer_layers_per_block"):
        config = {"block_out_channels": [8, 8], "layers_per_block": 1, "transformer_layers_per_block": 1}
        sizes = [estimate("UNet2DConditionModel", {**config, key: count}).modules for count in (few, few + more)]

        assert sizes[0] < sizes[1]


def test_inputs_are_refused_beyond_what_torch_can_write_down() -> None:
    """2^60 numbers of 8 bytes are the first too many; an argument that is no tensor has no size."""
    fits = InputSpec("sample", (MAX_ELEMENTS // 2**20, 2**20), ("batch", "height"), None)

    refuse_huge_inputs([fits, InputSpec("return_dict", None)], name="it")
    with pytest.raises(UsageError, match="sample of it would have the shape"):
        refuse_huge_inputs([fits, InputSpec("sample", (2**40, 2**20), ("batch", "height"), None)], name="it")


def test_a_pass_at_a_size_beyond_all_tensors_is_refused_before_it_is_run() -> None:
    """2^20 images of 2^20 x 2^20 cells of 4 channels are 2^62 numbers: a sentence, and no torch is needed for it."""
    model = LoadedModel(name="it", config=tiny.CONDITION, source=Source(kind="dict", location="it"))
    class_name, values = values_of(tiny.CONDITION)

    with pytest.raises(UsageError, match=r"sample of it would have the shape \(1048576, 4, 1048576, 1048576\)"):
        plan_work(model, class_name, values, make_request(batch=2**20, latent=2**20, cfg=False))


def test_weights_that_a_device_has_no_memory_for_are_refused() -> None:
    """What fits passes, to the last byte; where nothing says how much is free, everything does."""
    refuse_beyond_memory(100, available=100, device="cpu", name="it", force=False)
    refuse_beyond_memory(101, available=100, device="cpu", name="it", force=True)
    refuse_beyond_memory(101, available=None, device="cpu", name="it", force=False)
    with pytest.raises(ForwardError, match=r"it takes 1(\.0+)? GiB on cpu for its weights alone, and 1(\.0+)? MiB are free"):
        refuse_beyond_memory(2**30, available=2**20, device="cpu", name="it", force=False)


def test_this_machine_says_how_much_memory_it_has_free() -> None:
    """It is a number of bytes that this process would fit into."""
    free = available_memory()

    assert free is None or free > 2**20
