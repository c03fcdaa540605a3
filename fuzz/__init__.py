"""Mutated inputs for the whole program; see README.md beside this file."""
