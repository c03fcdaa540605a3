"""Small configs of the UNets of other kinds: one-dimensional, Kandinsky 3, Stable Cascade, aMUSEd, DreamLite, AudioLDM 2."""

from __future__ import annotations

from tests.tiny import kinds

KINDS = kinds("other")
AUDIO, TEMPORAL, VALUE_FUNCTION = KINDS["unet1d-audio"], KINDS["unet1d-temporal"], KINDS["unet1d-value-function"]
KANDINSKY, PRIOR, DECODER = KINDS["kandinsky3"], KINDS["cascade-prior"], KINDS["cascade-decoder"]
UVIT, DREAMLITE, AUDIOLDM2 = KINDS["uvit"], KINDS["dreamlite"], KINDS["audioldm2"]
