"""Tests of unetinspect; the package is a package so that its helpers can be imported."""
