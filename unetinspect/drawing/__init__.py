"""Draws the U of a trace: as SVG, PNG, one HTML page, Mermaid, DOT, or text for a terminal. Knows records only."""
