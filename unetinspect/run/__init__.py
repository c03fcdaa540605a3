"""From a config to its `Trace`: resolve, build, run, observe, cache. Imports torch and diffusers only to run a pass."""
