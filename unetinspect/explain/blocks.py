"""Norms that do not fit: group norms and their channels, layer norms and their width."""

from __future__ import annotations

import re
from math import gcd

from unetinspect.catalog import load_catalog
from unetinspect.explain.recogniser import Recogniser, Said, Scene, explained, meant, message, shape_of
from unetinspect.explain.widths import whose
from unetinspect.record import ErrorExplanation, ModelMatch


def _explain_groups(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    channels, groups = int(match["channels"]), int(match["groups"])
    if not channels or not groups:
        return None
    return explained(
        match,
        scene,
        Said(
            "norm_groups",
            f"A group norm shares {channels} channels out to {groups} groups, and {groups} does not divide {channels}. Every number in "
            "block_out_channels, and every sum of hidden states and skip, must be a multiple of norm_num_groups.",
            [
                meant(channels, "channels of the block, or of hidden states + skip"),
                meant(groups, "norm_num_groups; most UNets have 32"),
                meant(gcd(channels, groups), "largest number of groups that divides both"),
            ],
            (),
            [
                (
                    f"set norm_num_groups to a divisor of all block_out_channels, such as {gcd(channels, groups)}, for a UNet that is not "
                    "yet trained"
                ),
                "or choose block_out_channels that are multiples of norm_num_groups: 320, 640, 1280 for 32",
                "for a trained UNet both are fixed: take its own config",
            ],
        ),
    )


def _explain_any_groups(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    return explained(
        match,
        scene,
        Said(
            "norm_groups",
            "A group norm shares its channels out to groups, and the number of groups does not divide them: every number in "
            "block_out_channels "
            "must be a multiple of norm_num_groups.",
            (),
            (),
            [
                "set norm_num_groups to a divisor of all block_out_channels, for a UNet that is not yet trained",
                "or choose block_out_channels that are multiples of norm_num_groups: 320, 640, 1280 for 32",
            ],
        ),
    )


def _explain_layer_norm(match: re.Match[str], scene: Scene) -> ErrorExplanation | None:
    normalized, given = shape_of(match["normalized"]), shape_of(match["given"])
    if not normalized or not given or normalized[-1] == given[-1]:
        return None
    models = [
        ModelMatch(name=entry.name, role=f"takes text embeddings {normalized[-1]} wide", where=("addition_embed_type", "encoder_hid_dim"))
        for entry in load_catalog().values()
        if entry.config.get("addition_embed_type") == "text" and entry.config.get("encoder_hid_dim") == normalized[-1]
    ]
    return explained(
        match,
        scene,
        Said(
            "normalized_width",
            f"A layer norm takes {normalized[-1]} features, and was given {given[-1]}. In a UNet with addition_embed_type 'text' "
            "(DeepFloyd IF) "
            "it is the first layer that sees the text embeddings; in another it stands at the head of an image projection.",
            [
                meant(normalized[-1], f"features that it takes{whose(normalized[-1])}"),
                meant(given[-1], f"features given{whose(given[-1])}"),
            ],
            models,
            [
                f"compute embeddings {normalized[-1]} wide, with the encoder that belongs to the model",
                "`unetinspect inputs MODEL` shows what its forward takes",
            ],
        ),
    )


RECOGNISERS = (
    Recogniser(
        message(r"num_channels \((?P<channels>[0-9]{1,9})\) must be divisible by num_groups \((?P<groups>[0-9]{1,9})\)"), _explain_groups
    ),
    Recogniser(
        message(
            r"Expected number of channels in input to be divisible by num_groups, but got input of shape "
            r"\[[0-9]{1,9}, (?P<channels>[0-9]{1,9})[0-9,\s]{0,60}\] and num_groups=(?P<groups>[0-9]{1,9})"
        ),
        _explain_groups,
    ),
    Recogniser(message(r"num_channels must be divisible by num_groups"), _explain_any_groups),
    Recogniser(
        message(
            r"Given normalized_shape=\[(?P<normalized>[0-9,\s]{1,60})\], expected input with shape \[[*0-9,\s]{1,60}\], but got input of "
            r"size\s?"
            r"\[(?P<given>[0-9,\s]{1,80})\]"
        ),
        _explain_layer_norm,
    ),
)
