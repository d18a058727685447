"""What runs in the measured process: `python -m benchmarks.inside`, one JSON object a line in and one out."""
