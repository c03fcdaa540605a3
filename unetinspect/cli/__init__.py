"""The command line: options to a request, a request to a trace, a trace to a view."""
