"""Small faults in the package, each in a file of its room, and the tests that are to notice them: `make mutants`."""
