"""What is shown: functions of a `Trace`. Nothing here imports torch or diffusers, or decides where output goes."""
