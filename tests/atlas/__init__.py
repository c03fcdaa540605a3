"""Where `unetinspect/explain/atlas.jsonl` comes from: errors that diffusers raises, provoked or read from its source."""
