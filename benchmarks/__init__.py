"""The benchmark suite: does the orchestrator choose better than anything else would? See docs/benchmarks.md."""
