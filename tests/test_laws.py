"""Laws that hold for every UNet, tried on UNets that nobody chose."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.tiny import CONDITION, PLAIN, condition, plain, traced
from unetinspect import UnetInspectError, trace

# Each example builds and runs a UNet on meta: some tenths of a second.
few = settings(max_examples=4, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small UNet of either class: one to three blocks, with or without attention and a mid block."""
    blocks = draw(st.integers(1, 3))
    channels = draw(st.lists(st.sampled_from([16, 32, 48]), min_size=blocks, max_size=blocks))
    has_attention = draw(st.lists(st.booleans(), min_size=blocks, max_size=blocks))
    shared = {"block_out_channels": channels, "sample_size": draw(st.sampled_from([8, 12, [16, 8]]))}
    if draw(st.booleans()):
        layers = draw(st.one_of(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=blocks, max_size=blocks)))
        down = ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in has_attention]
        up = ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(has_attention)]
        mid = draw(st.sampled_from(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None]))
        return condition(layers_per_block=layers, down_block_types=down, up_block_types=up, mid_block_type=mid, **shared)
    down = ["AttnDownBlock2D" if has else "DownBlock2D" for has in has_attention]
    up = ["AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(has_attention)]
    mid = draw(st.sampled_from(["UNetMidBlock2D", None]))
    return plain(layers_per_block=draw(st.integers(1, 3)), down_block_types=down, up_block_types=up, mid_block_type=mid, **shared)


def per_block(config: dict[str, Any]) -> list[int]:
    """Return layers_per_block for each down block."""
    layers = config["layers_per_block"]
    return layers if isinstance(layers, list) else [layers] * len(config["block_out_channels"])


@few
@given(config=configs())
def test_the_skips_of_a_classical_u(config: dict[str, Any]) -> None:
    """One skip from each layer, each downsampler and conv_in; each is used once, in reverse order, and adds up."""
    record = trace(config, device="meta")
    layers, channels = per_block(config), config["block_out_channels"]

    assert len(record.skips) == sum(count + 1 for count in layers)
    assert record.totals.skips.produced == record.totals.skips.consumed == len(record.skips)
    assert [skip.index for skip in record.skips] == list(reversed(range(len(record.skips))))
    assert all(skip.adds_up for skip in record.skips)
    # What is pushed, by arithmetic: conv_in, then each block's layers and its downsampler.
    pushed = [channels[0]]
    for block, (count, width) in enumerate(zip(layers, channels, strict=True)):
        pushed += [width] * (count + (block < len(channels) - 1))
    assert [skip.skip_channels for skip in sorted(record.skips, key=lambda skip: skip.index)] == pushed
    assert [skip.out_channels for skip in record.skips] == [
        width for count, width in zip(reversed(layers), reversed(channels), strict=True) for _ in range(count + 1)
    ]


@few
@given(config=configs(), batch=st.integers(1, 2))
def test_the_batch_scales_what_a_pass_costs_and_guidance_is_a_batch_of_two(config: dict[str, Any], batch: int) -> None:
    """n images cost n times as much with the same parameters; with guidance they run the same pass as twice as many without."""
    one, many = (trace(config, cfg=False, batch=count, device="meta") for count in (1, 2 * batch))
    guided = trace(config, cfg=True, batch=batch, device="meta")

    assert many.totals.params == one.totals.params
    assert many.run.forward_batch == 2 * batch * one.run.forward_batch
    assert many.totals.macs == 2 * batch * (one.totals.macs or 0)
    assert (many.totals.peak_activation_bytes or 0) <= 2 * batch * (one.totals.peak_activation_bytes or 0)
    assert [layer.map_bytes for layer in many.attentions] == [2 * batch * layer.map_bytes for layer in one.attentions]
    assert [skip.shape[1:] for skip in many.skips] == [skip.shape[1:] for skip in one.skips]
    assert (guided.stages, guided.modules, guided.skips) == (many.stages, many.modules, many.skips)


@few
@given(config=configs(), tokens=st.integers(1, 200))
def test_tokens_are_the_keys_of_cross_attention_and_of_nothing_else(config: dict[str, Any], tokens: int) -> None:
    """The keys of cross-attention are the tokens; those of self-attention are its queries."""
    assume(config["_class_name"] == "UNet2DConditionModel")
    config["mid_block_type"] = "UNetMidBlock2DCrossAttn"  # so that something reads them
    for layer in trace(config, tokens=tokens, device="meta").attentions:
        assert layer.key_shape[2] == (tokens if layer.kind == "cross" else layer.query_shape[2])
        assert layer.map_shape == (layer.query_shape[0] * layer.heads, layer.query_shape[2], layer.key_shape[2])


# Small enough that no mutated config is a large UNet.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 64)
    | st.floats(-2, 64)
    | st.sampled_from(["", "x", "UpBlock2D", "silu", "text_time", "fourier"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=5,
)
keys = st.sampled_from(sorted(traced("conditioned").model.config))


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(config=st.sampled_from([CONDITION, PLAIN]), mutations=st.dictionaries(keys, values, min_size=1, max_size=3))
def test_a_mutated_config_ends_in_a_trace_or_in_an_error_with_a_hint(config: dict[str, Any], mutations: dict[str, Any]) -> None:
    """Whatever a config contains, there is a record, or one of the package's own errors with a message and a hint."""
    failure = None
    try:
        trace({**config, **mutations}, device="meta", latent=8)
    except UnetInspectError as error:
        failure = error

    assert failure is None or (failure.message and failure.hint)


@few
@given(config=configs())
def test_a_trace_traced_again_is_itself(config: dict[str, Any]) -> None:
    """A record contains all that is needed to make it again."""
    record = trace(config, device="meta")

    assert trace(record, device="meta") == record
