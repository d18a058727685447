"""`python -m project.demo`: everything started, a scenario driven over HTTP, every expectation checked."""
