"""From a config to its `Trace`: resolve, build, run, observe, keep. Imports torch and diffusers where a pass is run."""
