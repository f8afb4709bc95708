"""A classifier behind HTTP: one model, one worker, a bounded number of requests. docs/serve.md."""
