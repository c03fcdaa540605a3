"""Everything that is wrong with a UNet: its config, sizes, a checkpoint, expectations. Imports torch and diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from msgspec.structs import replace

from unetinspect.checking.adapter_weights import compare_lora
from unetinspect.checking.config import find_in_config
from unetinspect.checking.effects import Probes
from unetinspect.checking.expected import Expected, find_expected, unmet
from unetinspect.checking.weights import compare_weights, tensor_shapes
from unetinspect.errors import ConfigError, UsageError
from unetinspect.record import SCHEMA, Check, Envelope, Finding, NearSize, SizeCheck, Trace, WeightsCheck
from unetinspect.run.build import build_unet
from unetinspect.run.cache import Recorder
from unetinspect.run.failures import SizeError
from unetinspect.source.loaded import LoadedWeights
from unetinspect.unets import builder_for
from unetinspect.unets.request import Request, make_request
from unetinspect.unets.sizes import UnevenSizeError, returned_size, written_size


def check_model(
    recorder: Recorder, requests: Sequence[Request], *, weights: LoadedWeights | None = None, expected: Sequence[Expected]
) -> Envelope:
    """Check a recorder's model: its config, whether each size runs, whether a checkpoint fits, what is expected of it.

    The sections of the answer are those of the last size that ran.

    Raises:
        ConfigError: The config names no class that can be traced, or is huge and not forced.
        UsageError: An option does not fit this UNet, or the record has nothing of an expectation's name.
    """
    config, name = recorder.config, recorder.model.name
    passes = _Passes(recorder)
    sizes: tuple[SizeCheck, ...] = ()
    fit: WeightsCheck | None = None
    differences: tuple[Finding, ...] = ()
    refused: ConfigError | None = None
    try:
        sizes = passes.sizes(requests)
        if weights is not None:
            unet = build_unet(config, device=torch.device("meta"), dtype=torch.float32, name=name)
            header, found = weights.header, weights.checkpoint
            if found.lora is not None:
                fit, differences = compare_lora(name, tensor_shapes(unet), header, found, found.lora)
            else:
                fit, differences = compare_weights(unet, config.values, header, found)
    except ConfigError as error:
        refused = error
    record = passes.record
    report = find_in_config(
        config,
        {**recorder.model.config, **recorder.overrides},
        mistakes=refused.mistakes if refused else (),
        same=None if refused else Probes(recorder.model, config, passes.ran or make_request()).same,
        record=record,
    )
    expectations = find_expected(record, expected)
    refusal: list[Finding] = []
    if refused is not None and not refused.mistakes:  # diffusers refuses it, and no key is known to be wrong
        advice = None if refused.problems else refused.hint
        whats = refused.problems or (refused.message,)
        refusal = [Finding(about="config", kind="wrong", what=what, advice=advice, stops=True) for what in whats]
    findings = (*refusal, *report.findings, *_of_sizes(sizes), *differences, *unmet(expectations, ran=record is not None))
    check = Check(clean=not findings, findings=findings, meanings=report.meanings, sizes=sizes, weights=fit, expectations=expectations)
    return Envelope(schema=SCHEMA, model=recorder.info, check=check) if record is None else Envelope.of(record, check=check)


class _Passes:
    """Runs sizes one after another; `ran` is the last that ran, `record` its record."""

    def __init__(self, recorder: Recorder) -> None:
        self.ran: Request | None = None
        self.record: Trace | None = None
        self._recorder = recorder

    def sizes(self, requests: Sequence[Request]) -> tuple[SizeCheck, ...]:
        """Check each size. Where none is asked for, and a pass takes another size than the config's own, check both.

        Raises:
            ConfigError: None runs, because of the config.
            UsageError: All are refused because of an option.
        """
        found: list[SizeCheck] = []
        refusals: list[ConfigError | UsageError] = []
        for request in requests:
            try:
                found.append(self._size(request))
                if request.res is None and request.latent is None and self.record is not None:
                    config = self._recorder.config
                    own = builder_for(config.class_name).sample_size(config.values).value
                    if own != self.record.run.sample_size:
                        found.insert(-1, self._size(replace(request, latent=own)))
            except (ConfigError, UsageError) as error:
                size = error.__cause__.size if isinstance(error.__cause__, SizeError) else None
                if size is None and isinstance(error, ConfigError):
                    raise  # it cannot be built at all
                refusals.append(error)
                failed = SizeCheck(image_size=request.res, sample_size=request.latent, runs=False, reason=error.message)
                found.append(size or failed)
        if self.record is None and (faults := [error for error in refusals if isinstance(error, ConfigError)]):
            raise faults[0]
        if len(refusals) == len(requests):
            raise refusals[0]
        return tuple(found)

    def _size(self, request: Request) -> SizeCheck:
        try:
            record = self._recorder.record(request)
        except SizeError as error:
            return error.size
        except UnevenSizeError as error:
            nearest = tuple(NearSize(image_size=size, sample_size=None) for size in error.nearest)
            return SizeCheck(image_size=error.size, sample_size=None, runs=False, reason=error.message, nearest=nearest)
        self.ran, self.record = request, record
        output = record.outputs[0]
        size = returned_size(output.name, output.shape, record.run.sample_size)
        check = SizeCheck(image_size=record.run.image_size, sample_size=record.run.sample_size, runs=True, output_size=size)
        if size in (None, record.run.sample_size):
            return check
        reason = "an odd side is rounded when halved, so doubling it gives a different size"
        return replace(check, reason=reason, nearest=self._recorder.nearest_sizes(request))


def _of_sizes(sizes: Sequence[SizeCheck]) -> Iterator[Finding]:
    for size in sizes:
        own = written_size(size.sample_size) if size.sample_size else None
        subject = f"sample {own}" if own else f"image {written_size(size.image_size or ())}"
        nearest = " or ".join(map(_near, size.nearest))
        where = (size.failed_in,) if size.failed_in else ()
        if not size.runs:
            place = f" in {size.failed_in}" if size.failed_in else ""
            advice = f"nearest sizes that run: {nearest}" if nearest else None
            yield Finding(about="size", kind="fails", what=f"{subject} fails{place}: {size.reason}", where=where, advice=advice)
        elif size.output_size not in (None, size.sample_size):
            what = f"{subject} runs, but its output is {written_size(size.output_size or ())}: {size.reason}"
            advice = f"nearest sizes that keep their size: {nearest}" if nearest else None
            yield Finding(about="size", kind="other_size", what=what, where=where, advice=advice)


def _near(size: NearSize) -> str:
    """Write a size that runs, in pixels and of the sample, as far as both are known."""
    if size.image_size == size.sample_size and size.sample_size:
        return written_size(size.sample_size)
    image = f"image {written_size(size.image_size)}" if size.image_size else ""
    sample = f"sample {written_size(size.sample_size)}" if size.sample_size else ""
    return f"{image} ({sample})" if image and sample else image or sample
