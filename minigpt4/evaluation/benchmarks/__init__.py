"""The ten published benchmarks."""
