"""What is wrong, or would be: findings of `check`, whether another model fits a UNet, what an error message means."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from unetinspect.record.run import Shape


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong, or that will surprise.

    Attributes:
        about: What was checked.
        kind: What is wrong; of a config: "wrong" (diffusers cannot build or run it), "contradiction", "unknown" (no key of
            this class), "unusual" (diffusers runs with a value that it does not expect), "ignored" (a key of the class that
            has no effect with the others), "deprecated"; of weights: "missing", "unexpected", "mismatched"; of a size: "fails",
            "other_size"; of an expectation: "not_met".
        what: One sentence.
        where: The config keys, the module, or the tensors' common name.
        advice: What to do about it.
        count: How many tensors it is about.
        examples: The first few of them: name, shape in the file, shape in the UNet.
        stops: Whether the UNet cannot be built or run because of it, at whatever size.
        follows: Whether it is a consequence of the finding before it that does not follow: the file is for another family or model.
    """

    about: Literal["config", "size", "weights", "expectation"]
    kind: Literal[
        "wrong",
        "contradiction",
        "unknown",
        "unusual",
        "ignored",
        "deprecated",
        "missing",
        "unexpected",
        "mismatched",
        "fails",
        "other_size",
        "not_met",
    ]
    what: str
    where: tuple[str, ...] = ()
    advice: str | None = None
    count: int | None = None
    examples: tuple[TensorDifference, ...] = ()
    stops: bool = False
    follows: bool = False


class TensorDifference(Struct, frozen=True, kw_only=True):
    """A tensor that a checkpoint and a UNet do not have alike.

    Attributes:
        name: As diffusers names it.
        original_name: As the file names it, where that is another name.
        found: Its shape in the file; None: the file has none.
        expected: Its shape in the UNet; None: the UNet has none.
    """

    name: str
    original_name: str | None = None
    found: Shape | None = None
    expected: Shape | None = None


class KeyMeaning(Struct, frozen=True, kw_only=True):
    """What a config key does in this UNet, where its name says something else."""

    key: str
    value: Any
    meaning: str


class NearSize(Struct, frozen=True, kw_only=True):
    """A size that runs: (height, width) in pixels, where a VAE factor is known, and of the sample."""

    image_size: Shape | None
    sample_size: Shape | None


class SizeCheck(Struct, frozen=True, kw_only=True):
    """Whether one size runs.

    Attributes:
        image_size: In pixels; None where no VAE factor is known.
        sample_size: Of the sample; None where the VAE cannot make one of that image.
        runs: Whether a forward pass of that size runs.
        output_size: What it returns, (height, width); None where it fails, or returns nothing of that kind.
        failed_in: The module in which it fails.
        shapes: The two shapes that do not fit there.
        reason: Why it fails, or why the output has another size.
        nearest: The nearest sizes that run and return their own size.
    """

    image_size: Shape | None
    sample_size: Shape | None
    runs: bool
    output_size: Shape | None = None
    failed_in: str | None = None
    shapes: tuple[Shape, ...] = ()
    reason: str | None = None
    nearest: tuple[NearSize, ...] = ()


class WeightsCheck(Struct, frozen=True, kw_only=True):
    """How a checkpoint fits a UNet; of a LoRA, layers are counted instead of tensors.

    Attributes:
        name: The checkpoint.
        layout: How its tensors are named.
        tensors: Tensors in it that were compared; all of them if none is a UNet's.
        matched: Those that the UNet has under the same name and shape.
        missing: Tensors of the UNet that it lacks; of a LoRA, its layers of which a tensor is missing.
        unexpected: Tensors that the UNet does not have.
        mismatched: Tensors of another shape.
        fits: Models of the catalog that it fits.
        notes: What is around the names of its tensors, and how they are quantized, a sentence each.
        summary: What a LoRA is, and how much of it matches; None: it is not a LoRA.
        family: What the file belongs to, as the catalog calls it; None where the header does not show it.
    """

    name: str
    layout: Literal["diffusers", "original"] | None
    tensors: int
    matched: int
    missing: int
    unexpected: int
    mismatched: int
    fits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    summary: str | None = None
    family: str | None = None


Comparison = Literal["=", "!=", "<", "<=", ">", ">="]


class Expectation(Struct, frozen=True, kw_only=True):
    """What a number was expected to be, and is.

    Attributes:
        key: The path in the record, as `--expect` was given it.
        expected: The value that was given.
        found: The record's own; None also where no pass ran.
        holds: Whether it compares with the expected one as it should.
        comparison: How the found value should compare with the expected one.
    """

    key: str
    expected: Any
    found: Any
    holds: bool
    comparison: Comparison = "="


class Check(Struct, frozen=True, kw_only=True):
    """Everything that was checked of a model.

    Attributes:
        clean: Whether nothing was found.
        findings: What was found.
        meanings: Keys whose names say something else than what they do here; no findings.
        sizes: The sizes that were tried.
        weights: The checkpoint that was compared with the UNet; None: none was.
        expectations: What was expected.
    """

    clean: bool
    findings: tuple[Finding, ...]
    meanings: tuple[KeyMeaning, ...] = ()
    sizes: tuple[SizeCheck, ...] = ()
    weights: WeightsCheck | None = None
    expectations: tuple[Expectation, ...] = ()


class PortFit(Struct, frozen=True, kw_only=True):
    """One tensor: the shape that the UNet expects, and the one that it would get.

    Attributes:
        name: The port, or the input that both receive.
        takes: The shape that the UNet expects, None: it has no such port.
        given: The shape that it would get, None: it would get none.
        fits: Whether the one can be added to the other; of an input, whether both take the same.
        reason: Why they do not fit, None where they do.
    """

    name: str
    takes: Shape | None
    given: Shape | None
    fits: bool
    reason: str | None = None


class Fit(Struct, frozen=True, kw_only=True):
    """Whether a ControlNet or T2I-Adapter fits a UNet, tensor by tensor.

    Attributes:
        name: The ControlNet or T2I-Adapter.
        class_name: Its class.
        family: What an IP-Adapter was trained for, by its widths; None: not known.
        fits: Whether every tensor fits.
        rows: Each tensor that one gives or the other takes.
    """

    name: str
    class_name: str
    family: str | None = None
    fits: bool
    rows: tuple[PortFit, ...]


class NumberMeaning(Struct, frozen=True, kw_only=True):
    """A number or shape in an error message, and its meaning: "154 = 2 x 77 tokens of encoder_hidden_states"."""

    value: int | Shape
    meaning: str


class ModelMatch(Struct, frozen=True, kw_only=True):
    """A model of the catalog that has a number of the message.

    Attributes:
        name: The catalog name.
        role: Which side of the error it is: "its encoder_hidden_states are 2048 wide".
        where: Where in it: config keys, modules with repeats as *.
    """

    name: str
    role: str
    where: tuple[str, ...] = ()


class OtherCause(Struct, frozen=True, kw_only=True):
    """Another cause of the same message.

    Attributes:
        kind: Its kind.
        meaning: Its meaning for a UNet.
        changes: Changes to make if it is the cause.
    """

    kind: str
    meaning: str
    changes: tuple[str, ...] = ()


class ErrorExplanation(Struct, frozen=True, kw_only=True):
    """One error that was recognized in a text.

    Attributes:
        kind: Its kind: "cross_attention_width", "skip_size", "in_channels", "added_cond_kwargs", "class_labels", "head_count",
            "checkpoint", ...
        error: The message as in the text.
        module: The module or function that raised it, where the text has a traceback that shows it.
        decided_by: Why this cause and no other: the message says it itself ("text"), the traceback leads there, its numbers are
            those of published models; "nothing": the text fits any model, and this is what it means if it is a UNet.
        changes: Changes to make, most likely first.
        meaning: Its meaning for a UNet, in a few sentences.
        numbers: Its numbers.
        models: The models of the catalog that have them.
        others: Other causes of the same message, most likely first.
    """

    kind: str
    error: str
    module: str | None = None
    decided_by: Literal["text", "traceback", "numbers", "nothing"] = "text"
    meaning: str
    numbers: tuple[NumberMeaning, ...] = ()
    models: tuple[ModelMatch, ...] = ()
    changes: tuple[str, ...] = ()
    others: tuple[OtherCause, ...] = ()


class ErrorExplanations(Struct, frozen=True, kw_only=True):
    """Every error that was recognized, the one that was raised last first."""

    schema: Literal["unetinspect.errors/1"] = "unetinspect.errors/1"
    explanations: tuple[ErrorExplanation, ...]
